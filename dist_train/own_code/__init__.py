"""Code of the user's own, which the settings name by a reference such as `nets.py:Net` or `package.module:Net`.

reference    finds what a reference names, and checks its arguments, without running any of it
load         imports it, calls it, and shows its errors as the user's
"""
