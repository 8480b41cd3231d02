"""The command `dist-train predict`.

command         predicts a split, picture files and tables, by a run or by a pretrained network
picture_files   decodes picture files while the network computes
pretrained      networks of torchvision and timm, with their weights, transforms and labels
hub             networks of a hubconf.py
lines           prints predictions
pictures        draws pictures with their predictions
"""
