"""`compress check`: is the candidate as small, as fast and as right as the baseline?"""
