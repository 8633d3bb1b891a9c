PRESETS = {"evidently": 1}
