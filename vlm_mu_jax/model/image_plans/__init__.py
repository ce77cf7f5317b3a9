"""Image plans: pictures to encoded images and image tokens, one file each behind the interface `plan.ImagePlan`."""
