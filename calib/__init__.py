"""Representative frames and INT8 calibration of exported graphs."""
