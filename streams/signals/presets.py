PRESETS={"evidently":1}
