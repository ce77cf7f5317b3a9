"""Image plans: pictures to encoded images and image tokens. One file each, behind `image_plan.ImagePlan`."""
