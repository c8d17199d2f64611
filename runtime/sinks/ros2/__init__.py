"""Messages of ROS 2, made without it: in recordings, for Foxglove, and through rclpy where that is."""
