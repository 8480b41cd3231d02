"""What `dist-train predict` does.

command         a split, picture files and tables, by a run or by a network that others have trained
picture_files   decodes picture files while the network computes
pretrained      networks of torchvision and timm, with their weights, transforms and labels
hub             networks of a hubconf.py
lines           prints what is predicted
pictures        draws it
"""
