"""Decoded images, their statistics and digests of data files, stored once per machine under `data.cache`.

entries     the decoded images of a split, and its statistics
digests     digests of the data files, read again only when a name, size or time has changed
location    where the cache is, and who else can write there
lock        one process of the machine at a time downloads, reads or decodes a data set
"""
