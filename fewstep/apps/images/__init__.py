"""Few-shot classification of images: folders of photos, known datasets, Omniglot."""
