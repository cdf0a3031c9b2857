"""`python -m datamodules.augment` draws contact sheets of what augmentation does."""

from datamodules.augment.contact_sheet import main

if __name__ == "__main__":
    main()
