"""The network of PyTorch's MNIST example of 2019 (github.com/pytorch/examples, mnist/main.py).

Its log-softmax is part of the loss here.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class MnistNet(nn.Module):
    """Classify images [N, C, H, W]; returns logits [N, num_classes]."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int, dropout: float = 0.0) -> None:
        """
        Args:
            shape: channels, height and width of an image; the original's is (1, 28, 28).
            dropout: probability that an input of the last layer is dropped in training.
        """
        super().__init__()
        channels, *sides = shape
        height, width = (((side - 4) // 2 - 4) // 2 for side in sides)  # 28 -> 24 -> 12 -> 8 -> 4
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(50 * height * width, 500)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        # The lesson pools after ReLU: the numbers are the same, but ReLU then has four times the work.
        x = F.relu(self.pool(self.conv1(x)))
        x = F.relu(self.pool(self.conv2(x)))
        x = x.flatten(1)
        x = F.relu(self.fc1(x))
        return self.fc2(self.dropout(x))  # type: ignore[no-any-return]
