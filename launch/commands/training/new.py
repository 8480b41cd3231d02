"""Make a project of your own that trains at once: a network, a data set, settings, a test and a batch script.

    dist-train new my_project
    cd my_project
    dist-train train settings.yaml

Its README.md says what each file is for.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the project, and of the folder that is made here")


def run(options: argparse.Namespace) -> int:
    from launch.local.new_project import make_project

    made = make_project(options.name)
    print(f"{made.name}: made with {', '.join(sorted(path.name for path in made.iterdir()))}. Now\n")
    print(
        f"  cd {made.name}\n  dist-train train settings.yaml    train it\n  python -m pytest                  test it"
    )
    return 0
