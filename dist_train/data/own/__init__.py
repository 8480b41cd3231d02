"""Data sets of the user's own: any map-style `torch.utils.data.Dataset`.

opening    calls the user's class or function, checks what it gives, and chooses how it is read
items      reads items one by one, each with its own seeds
rows       makes data sets of tensors of tables, which are read like those of the user
stacking   makes a batch of items
sources    the samples of a split as batches, read when needed or held in memory
"""
