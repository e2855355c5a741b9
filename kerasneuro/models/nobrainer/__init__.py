"""The 3-D U-Net of nobrainer: brain extraction (brainy), meningioma (ams), and networks of your own."""
