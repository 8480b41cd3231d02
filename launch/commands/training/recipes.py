"""List the recipes: settings files that come with dist-train, each with a measured result.

dist-train recipes                        their names, and what they train
dist-train recipes digits > mine.yaml     print one, to make your own of it
dist-train train digits                   train one
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this recipe")


def run(options: argparse.Namespace) -> int:
    from dist_train.recipes import describe_recipes, find_recipe

    if options.name is not None:
        print(find_recipe(options.name).read_text(encoding="utf-8"), end="")
        return 0
    about = list(describe_recipes())
    width = max(len(name) for name, _ in about)
    print("\n".join(f"{name:<{width}}  {head}" for name, head in about))
    return 0
