"""The user's code, which the settings name by a reference such as `nets.py:Net` or `package.module:Net`.

modules       finds the files of modules, without running any of them
reference     finds what a reference names, and checks its arguments, in the source alone
load          imports it, calls it, and raises its errors as OwnCodeError
copies        keeps the files in the directory of a run, and lets imports find the copies
working_tree  describes how the user's files differ from the commit in git
"""
