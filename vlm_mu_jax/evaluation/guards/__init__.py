"""What a guard does to real answers: the settings that validation chooses, guarded answers, and diagnosis."""
