-- What canaries are judged by besides: answers looked at for JSON, and answers that somebody rated.
ALTER TABLE outcomes ADD COLUMN checked INTEGER DEFAULT 0 NOT NULL CHECK (checked BETWEEN 0 AND requests);
ALTER TABLE outcomes ADD COLUMN not_json INTEGER DEFAULT 0 NOT NULL CHECK (not_json BETWEEN 0 AND checked);
ALTER TABLE outcomes ADD COLUMN rated INTEGER DEFAULT 0 NOT NULL CHECK (rated >= 0);
ALTER TABLE outcomes ADD COLUMN disliked INTEGER DEFAULT 0 NOT NULL CHECK (disliked BETWEEN 0 AND rated);
