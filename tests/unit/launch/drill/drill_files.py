"""The settings of a run that is short enough to be drilled in a test."""

SMALL = """
data: {name: synthetic, num_train: 320, num_test: 32, global_batch: 16, augment: {crop_padding: 2}}
model: {name: mnist_cnn, dropout: 0.2}
optim: {name: sgd, lr: 0.02, momentum: 0.9}
train: {epochs: 6}
distributed: {backend: gloo}
checkpoint: {every_steps: 5}
log: {every_steps: 20, tensorboard: false}
"""
