# to be written with the attack API
