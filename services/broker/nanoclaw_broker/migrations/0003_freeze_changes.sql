-- How often a freeze was set or lifted: those who watch capabilities are told by it, also across a restart.
ALTER TABLE ext_freezes ADD COLUMN changes INTEGER NOT NULL DEFAULT 1 CHECK (changes >= 1);
