"""Seeds of epochs and ranks. test_checkpoint.py covers Reseed in a resumed run."""

from callbacks.reseed import derive_seed


def test_seeds_of_epochs_and_ranks_differ_and_repeat():
    seeds = {derive_seed(seed, epoch, rank) for seed in range(4) for epoch in range(50) for rank in range(4)}
    assert len(seeds) == 4 * 50 * 4
    assert derive_seed(1, 2, 3) == derive_seed(1, 2, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)
