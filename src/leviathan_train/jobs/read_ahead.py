"""Read ahead what a start of the training will read; see `system.readahead`.

python -m leviathan_train.jobs.read_ahead
"""

from leviathan_train.system.readahead import read_ahead

if __name__ == "__main__":
    read_ahead()
