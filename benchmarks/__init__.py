"""Measurements, side by side in one session; their results lie in `results/`.

python -m benchmarks.compare.bench          this project beside other frameworks (`make bench`)
python -m benchmarks.single.slurm_start    from `sbatch` to the first step
"""
