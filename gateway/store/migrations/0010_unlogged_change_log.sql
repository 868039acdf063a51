-- The log of changes need not survive a crash: after one (and after a restore or a failover, which empty it too) every
-- reader's cursor is of another history, and it is told everything anew. So its lines are not written to the
-- write-ahead log, which was a part of what every write paid for the feed.

ALTER TABLE change_log SET UNLOGGED;
