"""What the logs say of a day, a week or a month, as records and as pages. In the order in which the data flows:

periods    a cadence and a day → the time that is meant
gather     windows, actions and acks, one by one → what a report needs of them
incidents  actions and acks → incidents
pool       labelled numbers of days → one, with its interval
lines      what was gathered → signals against their limits, labelled numbers
recommend  what a month came to → retrain, keep, or investigate
report     what was gathered → the three reports, as records
pages      a report → its page
html, svg, style: the one toolkit of all pages; backtest: the page of a backtest.
"""
