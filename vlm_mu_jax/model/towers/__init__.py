"""Vision towers: images to hidden states, one file each behind the interface `tower.Tower`."""
