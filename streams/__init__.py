"""The pipeline as pure functions. In the order in which the data flows:

events     JSON of a record → Event, or the reason why it is none      (the careful path)
decode     a batch of records → rows by model, and rejects             (the fast path)
batch      rows → columns: the slot in which every value counts
cells      columns → profiles by pane, timeliness, version and segment
sketch/    what a profile is made of: mergeable, serialisable sketches
seal       payload ↔ sealed bytes, of a format
partial    profiles and books ↔ bytes
progress   where a partition resumes ↔ bytes
labels     JSON of a label record → Label, or the reason why it is none
store      what the join needs of a key-value store
join       stage 1: predictions and labels of a partition → outcomes, whatever their order
chunk      stage 1: records of a partition → partials, progress, rejects: what all topics have in common
source     stage 1 of inference events, next to their join with labels
`facts/`   stage 1 and 2 of side inputs: feedback, runs of jobs, business outcomes
chunk_merge, merge  stage 2: partials → panes; panes of events → closed ones, by the models' watermarks
replaying  a past that is replayed: which topic is silent, and which is still to be sent
rollup     closed panes → windows
signals/   windows → signals with a value and a threshold; breached or not
decide     signals → decisions, by rules
action     decisions → action events
window     evaluated windows → their records
ack        JSON of what a consumer did about an action → Ack, or the reason why it is none
incidents  actions → incidents as the ledger has them
truth      windows → the truth of each cell, span by span
ledger     incidents, truth and acks → how far each proxy can be trusted, and what is done about each rule
judge      merge to window, for one bucket of models; judge_outcomes: its labelled side, with calibrate online;
           judge_facts: feedback, runs and KPIs
assign     what each worker has → who gets which partitions
backtest   the whole, over files; rehearse: the reference itself, for `init`
reports/   windows, actions and acks → the daily, weekly and monthly report, and all pages

config, baseline, plan: what is declared and learned; learn, learn_outcomes and scaffold: how `init` learns it and
writes it down.
"""
