"""The command `dist-train`, also `python -m dist_train.command`: it runs the `launch` of this installation.

Others have packages named `launch` too, such as ROS. So ours is loaded from its place, whatever is first on the path,
and only in the process of the command: ranks never import it, and there `import launch` finds what the user has.
"""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location

from dist_train.installation import find_own
from dist_train.system.exit import run_guarded


def main() -> int:
    """Run `dist-train` with the arguments of this process; return its exit code.

    `job` is no command for users: the batch script calls it.
    """
    load_launch()
    code: int
    if sys.argv[1:2] == ["job"]:
        job_hooks = import_module("launch.slurm.job_hooks")
        code = run_guarded(lambda: job_hooks.main(sys.argv[2:]))
    else:
        code = import_module("launch.cli").main()
    return code


def load_launch() -> None:
    """Make `launch` the package of this installation, also where another one is imported already."""
    folder = find_own("launch")
    spec = spec_from_file_location("launch", folder / "__init__.py", submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder}: can't be imported; install dist-train again")
    for name in [name for name in sys.modules if name.partition(".")[0] == "launch"]:
        del sys.modules[name]
    sys.modules["launch"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "__main__":
    sys.exit(main())
