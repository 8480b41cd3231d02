"""The Python interface: `from dist_train import load_config, train, evaluate, load_model`."""
