"""The network of "Training a classifier" in PyTorch's 60-minute tutorial, which may be made wider."""

from torch import Tensor, nn
from torch.nn import functional as F


class CifarNet(nn.Module):
    """Classify images [N, C, H, W]; returns logits [N, num_classes]."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        num_classes: int,
        dropout: float = 0.0,
        channels: tuple[int, int] = (6, 16),
        hidden: tuple[int, int] = (120, 84),
    ) -> None:
        """
        Args:
            shape: channels, height and width of an image; the original's is (3, 32, 32).
            dropout: probability that an input of the last layer is dropped in training.
            channels: that the convolutions return.
            hidden: units of the hidden layers.
        """
        super().__init__()
        colours, *sides = shape
        (first, second), (wide, narrow) = channels, hidden
        rows, columns = (((side - 4) // 2 - 4) // 2 for side in sides)  # 32 -> 28 -> 14 -> 10 -> 5
        self.conv1 = nn.Conv2d(colours, first, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.fc1 = nn.Linear(second * rows * columns, wide)
        self.fc2 = nn.Linear(wide, narrow)
        self.dropout = nn.Dropout(dropout)
        self.fc3 = nn.Linear(narrow, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        # The lesson pools after ReLU: the numbers are the same, but ReLU then has four times the work.
        x = F.relu(self.pool(self.conv1(x)))
        x = F.relu(self.pool(self.conv2(x)))
        x = x.flatten(1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(self.dropout(x))  # type: ignore[no-any-return]
