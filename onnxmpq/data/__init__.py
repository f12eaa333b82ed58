"""What users give: samples, where they come from, images, and blends of two samples."""
