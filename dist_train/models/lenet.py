"""LeNet-5 as it is taught today, with ReLU and max-pooling.

LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 1998; the layers are those of
"Neural networks" in PyTorch's 60-minute tutorial.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class LeNet(nn.Module):
    """Classify images [N, C, H, W]; returns logits [N, num_classes]."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int, dropout: float = 0.0) -> None:
        """
        Args:
            shape: channels, height and width of an image; the original's is (1, 32, 32).
            dropout: probability that an input of the last layer is dropped in training.
        """
        super().__init__()
        channels, *sides = shape
        height, width = (((side - 4) // 2 - 4) // 2 for side in sides)  # 32 -> 28 -> 14 -> 10 -> 5
        self.conv1 = nn.Conv2d(channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * height * width, 120)
        self.fc2 = nn.Linear(120, 84)
        self.dropout = nn.Dropout(dropout)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        # The lessons pool after ReLU: the numbers are the same, but ReLU then has four times the work.
        x = F.relu(self.pool(self.conv1(x)))
        x = F.relu(self.pool(self.conv2(x)))
        x = x.flatten(1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(self.dropout(x))  # type: ignore[no-any-return]
