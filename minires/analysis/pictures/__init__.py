"""Pictures of runs: each module draws one kind, from data, as a matplotlib `Figure`.

Draw and save inside `style.themed`: it sets the fonts and colours.
"""
