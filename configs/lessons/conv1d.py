"""A network of your own, with layers of the lesson's list."""

from torch import Tensor, nn


class RowsNet(nn.Module):
    """Read the 28 rows of a picture, [N, 1, 28, 28], as 28 signals of 28 numbers; returns logits [N, 10]."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(28, channels, kernel_size=3, padding=1),
            nn.BatchNorm1d(channels),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(channels, 2 * channels, kernel_size=3, padding=1),
            nn.Tanh(),
            nn.AvgPool1d(2),
        )
        self.dropout = nn.Dropout(0.2)
        self.output = nn.Linear(2 * channels * 7, 10)

    def forward(self, images: Tensor) -> Tensor:
        signals = self.features(images.squeeze(1))
        return self.output(self.dropout(signals.flatten(1)))
