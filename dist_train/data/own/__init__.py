"""The user's data sets: any map-style `torch.utils.data.Dataset`.

opening     calls the user's class or function, checks what it returns, and chooses how it is read
attributes  reads optional attributes of a data set, such as `classes` and `weights`
items       reads items one by one, and makes batches of them
seeding     seeds `random`, `numpy.random` and torch for each item
augmenting  changes training samples by the user's code
stacking    stacks items to a batch
sources     the samples of a split as batches, read when needed or held in memory
rows        makes data sets of tensors of tables, which are read like those of the user
"""
