"""Evidence retrieval on LoCoMo: recall of the turns that hold the answer.

Data: LoCoMo (Maharana et al., ACL 2024), ten long conversations in `locomo10.json`, CC BY-NC 4.0,
not part of this repository.  Categories 1 to 4 (1 multi-hop, 2 temporal, 3 open-domain, 4 single-hop);
category 5 asks about things that were never said and has no evidence.

Each conversation is one index.  Recall@k of a question is the share of its evidence turns among the
first k turns; at session level, of its evidence sessions among the first k distinct sessions in the
order of the ranked turns.  Every system ranks the same turns for the same questions in the same run,
and all dense ones use the same embedding model.
"""
