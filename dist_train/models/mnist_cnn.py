"""Two padded 3x3 convolutions and one linear layer, as many MNIST courses write them."""

from torch import Tensor, nn


class MnistCNN(nn.Module):
    """Classify images [N, C, H, W]; returns logits [N, num_classes]."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int, dropout: float = 0.0) -> None:
        """
        Args:
            shape: channels, height and width of an image; the original's is (1, 28, 28).
            dropout: probability that an input of the last layer is dropped in training.
        """
        super().__init__()
        channels, height, width = shape
        # The lessons pool after ReLU: the numbers are the same, but ReLU then has four times the work.
        self.conv1 = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1), nn.MaxPool2d(2), nn.ReLU())
        self.conv2 = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.MaxPool2d(2), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(32 * (height // 4) * (width // 4), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.conv2(x)
        x = x.flatten(1)
        return self.output(self.dropout(x))  # type: ignore[no-any-return]


OLD_NAMES = {
    "conv1.weight": "conv1.0.weight",
    "conv1.bias": "conv1.0.bias",
    "conv2.weight": "conv2.0.weight",
    "conv2.bias": "conv2.0.bias",
    "fc1.weight": "output.weight",
    "fc1.bias": "output.bias",
}
"""Names of parameters in checkpoints of dist-train 0.1 -> today's."""
