"""Where credit is due: the value of every action, by playing on from it many times."""
