BEGIN TRANSACTION;
CREATE TABLE artifacts (
	sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(64) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	stage VARCHAR(64) NOT NULL, 
	stage_version INTEGER NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	bytes INTEGER NOT NULL, 
	base_source TEXT, 
	base_revision TEXT, 
	base_weights_digest VARCHAR(64), 
	base_tokenizer_digest VARCHAR(64), 
	base_tokenizer_length INTEGER, 
	base_embedding_rows INTEGER, 
	base_chat_template_digest VARCHAR(64), 
	base_architecture TEXT, 
	quant_method VARCHAR(8), 
	quant_requested TEXT, 
	quant_effective TEXT, 
	quant_calibration_dataset VARCHAR(64), 
	quant_merge_base VARCHAR(8), 
	quant_toolchain TEXT, 
	manifest TEXT NOT NULL, 
	CONSTRAINT id_is_sha256 CHECK (length(id) = 64), 
	CONSTRAINT base_weights_digest_is_sha256 CHECK (length(base_weights_digest) = 64), 
	CONSTRAINT base_tokenizer_digest_is_sha256 CHECK (length(base_tokenizer_digest) = 64), 
	CONSTRAINT base_chat_template_digest_is_sha256 CHECK (length(base_chat_template_digest) = 64), 
	CONSTRAINT known_kind CHECK (kind IN ('base', 'adapter', 'merged', 'quantized', 'dataset', 'evaluation')), 
	CONSTRAINT a_model_names_its_base_and_quantization CHECK (kind NOT IN ('base', 'adapter', 'merged', 'quantized') OR (base_source IS NOT NULL AND base_revision IS NOT NULL AND base_weights_digest IS NOT NULL AND base_tokenizer_digest IS NOT NULL AND base_tokenizer_length IS NOT NULL AND base_embedding_rows IS NOT NULL AND base_chat_template_digest IS NOT NULL AND base_architecture IS NOT NULL AND quant_method IS NOT NULL AND quant_requested IS NOT NULL AND quant_effective IS NOT NULL AND quant_toolchain IS NOT NULL)), 
	CONSTRAINT revision_is_pinned CHECK (length(base_revision) >= 7), 
	CONSTRAINT vocabulary_is_known CHECK (base_tokenizer_length > 0 AND base_embedding_rows > 0), 
	CONSTRAINT known_quantization CHECK (quant_method IN ('none', 'bnb', 'gptq', 'gguf')), 
	CONSTRAINT quantized_says_how CHECK (kind <> 'quantized' OR quant_method <> 'none'), 
	CONSTRAINT known_merge_base CHECK (quant_merge_base IN ('16bit', 'nf4')), 
	UNIQUE (id), 
	FOREIGN KEY(quant_calibration_dataset) REFERENCES artifacts (id)
);
INSERT INTO "artifacts" VALUES(1,'ed2365697c2f71e5d6e109db39caa7e5458be789f3a76f97938eb73b253fffc5','base','resolve',1,'2026-11-29T02:14:20.028289+00:00',2,'hub:acme/tiny','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','1111111111111111111111111111111111111111111111111111111111111111','2222222222222222222222222222222222222222222222222222222222222222',100,128,'3333333333333333333333333333333333333333333333333333333333333333','LlamaForCausalLM','none','{}','{}',NULL,NULL,'{}','{"base":{"architecture":"LlamaForCausalLM","chat_template_digest":"3333333333333333333333333333333333333333333333333333333333333333","embedding_rows":128,"revision":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","source":"hub:acme/tiny","tokenizer_digest":"2222222222222222222222222222222222222222222222222222222222222222","tokenizer_length":100,"weights_digest":"1111111111111111111111111111111111111111111111111111111111111111"},"config":{"i":0},"files":{"w.bin":{"sha256":"b70a14ee1e15d7aa94bd810ec06f4cb77a346e8f33aef6bfeae3d7c4442d7a93","size":2}},"kind":"base","metrics":{},"parents":[],"quant":{"calibration_dataset":null,"effective":{},"merge_base":null,"method":"none","requested":{},"toolchain":{}},"schema_version":1,"stage":"resolve","stage_version":1,"toolchain":{}}');
INSERT INTO "artifacts" VALUES(2,'e071dda59f897817de1cd9f8b0e85ba28f12009ea4ca3781e407ebb6b3bdb0d6','base','resolve',1,'2026-11-29T02:14:20.101438+00:00',2,'hub:acme/tiny','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','1111111111111111111111111111111111111111111111111111111111111111','2222222222222222222222222222222222222222222222222222222222222222',100,128,'3333333333333333333333333333333333333333333333333333333333333333','LlamaForCausalLM','none','{}','{}',NULL,NULL,'{}','{"base":{"architecture":"LlamaForCausalLM","chat_template_digest":"3333333333333333333333333333333333333333333333333333333333333333","embedding_rows":128,"revision":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","source":"hub:acme/tiny","tokenizer_digest":"2222222222222222222222222222222222222222222222222222222222222222","tokenizer_length":100,"weights_digest":"1111111111111111111111111111111111111111111111111111111111111111"},"config":{"i":1},"files":{"w.bin":{"sha256":"ec31682fde561917952ff78a7a8adeffd0febc372dd26871916c46c630381b45","size":2}},"kind":"base","metrics":{},"parents":[],"quant":{"calibration_dataset":null,"effective":{},"merge_base":null,"method":"none","requested":{},"toolchain":{}},"schema_version":1,"stage":"resolve","stage_version":1,"toolchain":{}}');
INSERT INTO "artifacts" VALUES(3,'f9849b25ae50f4717d6c5d94dd30128a3cbf4ac795681f169bd758c20f388762','base','resolve',1,'2026-11-29T02:14:20.165490+00:00',2,'hub:acme/tiny','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','1111111111111111111111111111111111111111111111111111111111111111','2222222222222222222222222222222222222222222222222222222222222222',100,128,'3333333333333333333333333333333333333333333333333333333333333333','LlamaForCausalLM','none','{}','{}',NULL,NULL,'{}','{"base":{"architecture":"LlamaForCausalLM","chat_template_digest":"3333333333333333333333333333333333333333333333333333333333333333","embedding_rows":128,"revision":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","source":"hub:acme/tiny","tokenizer_digest":"2222222222222222222222222222222222222222222222222222222222222222","tokenizer_length":100,"weights_digest":"1111111111111111111111111111111111111111111111111111111111111111"},"config":{"i":2},"files":{"w.bin":{"sha256":"844ecc08164e2eab27634a9adee1afa6599e589570e719784e080ce747fc0e45","size":2}},"kind":"base","metrics":{},"parents":[],"quant":{"calibration_dataset":null,"effective":{},"merge_base":null,"method":"none","requested":{},"toolchain":{}},"schema_version":1,"stage":"resolve","stage_version":1,"toolchain":{}}');
INSERT INTO "artifacts" VALUES(4,'0a2729760c8ef96a31f6d3a4e65619a572631fa30c9634fe2e49688b43295922','base','resolve',1,'2026-11-29T02:14:20.220295+00:00',2,'hub:acme/tiny','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','1111111111111111111111111111111111111111111111111111111111111111','2222222222222222222222222222222222222222222222222222222222222222',100,128,'3333333333333333333333333333333333333333333333333333333333333333','LlamaForCausalLM','none','{}','{}',NULL,NULL,'{}','{"base":{"architecture":"LlamaForCausalLM","chat_template_digest":"3333333333333333333333333333333333333333333333333333333333333333","embedding_rows":128,"revision":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","source":"hub:acme/tiny","tokenizer_digest":"2222222222222222222222222222222222222222222222222222222222222222","tokenizer_length":100,"weights_digest":"1111111111111111111111111111111111111111111111111111111111111111"},"config":{"i":3},"files":{"w.bin":{"sha256":"844b69c4d54cc264bc2dadb6bb70f53bc123beafc0f58d81ed8cd4a07c24a5a7","size":2}},"kind":"base","metrics":{},"parents":[],"quant":{"calibration_dataset":null,"effective":{},"merge_base":null,"method":"none","requested":{},"toolchain":{}},"schema_version":1,"stage":"resolve","stage_version":1,"toolchain":{}}');
CREATE TABLE budgets (
	day VARCHAR(10) NOT NULL CHECK (length(day) = 10), 
	tenant VARCHAR(64) NOT NULL, 
	used INTEGER NOT NULL CHECK (used >= 0), 
	reserved INTEGER NOT NULL CHECK (reserved >= 0), 
	PRIMARY KEY (day, tenant), 
	FOREIGN KEY(tenant) REFERENCES tenants (name)
);
CREATE TABLE channel_events (
	channel VARCHAR(129) NOT NULL, 
	generation INTEGER NOT NULL, 
	action VARCHAR(8) NOT NULL CHECK (action IN ('move', 'rollback')), 
	artifact_id VARCHAR(64) NOT NULL, 
	restores INTEGER, 
	decision_id VARCHAR(64), 
	reason TEXT, 
	who TEXT, 
	at VARCHAR(32) NOT NULL, 
	previous_digest VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	PRIMARY KEY (channel, generation), 
	CONSTRAINT decided_by_a_gate_or_a_person CHECK ((action = 'move' AND decision_id IS NOT NULL) OR (length(reason) > 0 AND length(who) > 0)), 
	FOREIGN KEY(artifact_id) REFERENCES artifacts (id), 
	FOREIGN KEY(decision_id) REFERENCES gate_decisions (id), 
	UNIQUE (digest)
);
INSERT INTO "channel_events" VALUES('team/prod',1,'move','ed2365697c2f71e5d6e109db39caa7e5458be789f3a76f97938eb73b253fffc5',NULL,'5def6666372342ea71abcc724e5a6eaa0ea9d00df1763da98977d1638e7e41da',NULL,NULL,'2026-11-29T02:14:20.292205+00:00','0000000000000000000000000000000000000000000000000000000000000000','eebcbc8d7a9099f235e2d81af9a3240e6e7837bd2e816c017626961fcc31ce7f');
INSERT INTO "channel_events" VALUES('team/prod',2,'move','e071dda59f897817de1cd9f8b0e85ba28f12009ea4ca3781e407ebb6b3bdb0d6',NULL,NULL,'weil ü','ada','2026-11-29T02:14:20.304775+00:00','eebcbc8d7a9099f235e2d81af9a3240e6e7837bd2e816c017626961fcc31ce7f','fcebd0979b6868e1aa45c8f1348fa0887d84080f38757de617bdb7900beccf11');
INSERT INTO "channel_events" VALUES('team/prod',3,'move','f9849b25ae50f4717d6c5d94dd30128a3cbf4ac795681f169bd758c20f388762',NULL,NULL,'r','ada','2026-11-29T02:14:20.316384+00:00','fcebd0979b6868e1aa45c8f1348fa0887d84080f38757de617bdb7900beccf11','239733b0ee5d484ec5febf74412e5476404a24053e84092be3e63eee9246a70b');
INSERT INTO "channel_events" VALUES('team/prod',4,'rollback','e071dda59f897817de1cd9f8b0e85ba28f12009ea4ca3781e407ebb6b3bdb0d6',2,NULL,'bad','bob','2026-11-29T02:14:20.332489+00:00','239733b0ee5d484ec5febf74412e5476404a24053e84092be3e63eee9246a70b','b5e0e8b500aa5b7fd53b96d0f211ea82e3d82d77bff2fab412a6f24528e7e618');
INSERT INTO "channel_events" VALUES('team/two',1,'move','0a2729760c8ef96a31f6d3a4e65619a572631fa30c9634fe2e49688b43295922',NULL,NULL,'r','ada','2026-11-29T02:14:20.337953+00:00','0000000000000000000000000000000000000000000000000000000000000000','83ee2282ec0fbd12d8c61ed8308880c7330005f3db31691ff269f25afc6f2f0f');
CREATE TABLE channel_policies (
	sequence INTEGER NOT NULL, 
	channel VARCHAR(129) NOT NULL, 
	policy TEXT NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	who TEXT NOT NULL CHECK (length(who) > 0), 
	reason TEXT NOT NULL CHECK (length(reason) > 0), 
	at VARCHAR(32) NOT NULL, 
	PRIMARY KEY (sequence)
);
INSERT INTO "channel_policies" VALUES(1,'team/prod','{"p":1}','4835f96cb95414c1b3dd5816bcabc7ae1405283accdbdf990de0f35f07075abb','key d541aca4fbf6','taken over from gate decision 5def66663723, the first to move the channel','2026-11-29T02:14:20.290867+00:00');
CREATE TABLE channels (
	name VARCHAR(129) NOT NULL, 
	artifact_id VARCHAR(64) NOT NULL, 
	generation INTEGER NOT NULL CHECK (generation >= 1), 
	moved VARCHAR(32) NOT NULL, 
	PRIMARY KEY (name), 
	FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
INSERT INTO "channels" VALUES('team/prod','e071dda59f897817de1cd9f8b0e85ba28f12009ea4ca3781e407ebb6b3bdb0d6',4,'2026-11-29T02:14:20.332489+00:00');
INSERT INTO "channels" VALUES('team/two','0a2729760c8ef96a31f6d3a4e65619a572631fa30c9634fe2e49688b43295922',1,'2026-11-29T02:14:20.337953+00:00');
CREATE TABLE content_events (
	sequence INTEGER NOT NULL, 
	artifact_id VARCHAR(64) NOT NULL, 
	action VARCHAR(9) NOT NULL CHECK (action IN ('collected', 'restored')), 
	bytes INTEGER NOT NULL, 
	at VARCHAR(32) NOT NULL, 
	PRIMARY KEY (sequence), 
	FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
CREATE TABLE deletions (
	sha256 VARCHAR(64) NOT NULL, 
	host TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	pid_started FLOAT NOT NULL, 
	expires FLOAT NOT NULL, 
	PRIMARY KEY (sha256)
);
CREATE TABLE edges (
	child VARCHAR(64) NOT NULL, 
	relation VARCHAR(16) NOT NULL, 
	parent VARCHAR(64) NOT NULL, 
	PRIMARY KEY (child, relation, parent), 
	CONSTRAINT nothing_is_its_own_parent CHECK (child <> parent), 
	FOREIGN KEY(child) REFERENCES artifacts (id), 
	FOREIGN KEY(parent) REFERENCES artifacts (id)
);
CREATE TABLE endpoints (
	sequence INTEGER NOT NULL, 
	id VARCHAR(16) NOT NULL, 
	artifact_id VARCHAR(64) NOT NULL, 
	channel VARCHAR(129), 
	engine VARCHAR(32) NOT NULL, 
	url TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	pid_started FLOAT NOT NULL, 
	log TEXT NOT NULL, 
	started VARCHAR(32) NOT NULL, 
	stopped VARCHAR(32), 
	question TEXT, 
	answer TEXT, 
	config TEXT NOT NULL, 
	PRIMARY KEY (sequence), 
	UNIQUE (id), 
	FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
CREATE TABLE executions (
	sequence INTEGER NOT NULL, 
	artifact_id VARCHAR(64) NOT NULL, 
	"key" VARCHAR(64) NOT NULL, 
	started VARCHAR(40) NOT NULL, 
	seconds FLOAT NOT NULL, 
	peak_bytes INTEGER, 
	host TEXT NOT NULL, 
	PRIMARY KEY (sequence), 
	FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
INSERT INTO "executions" VALUES(1,'ed2365697c2f71e5d6e109db39caa7e5458be789f3a76f97938eb73b253fffc5','7fa53b923305b803152e7184d167ef4f630ba03ac09d742ea3e44df294ee2e4b','2026-01-02T03:04:05+00:00',1.5,1000,'host 5aac86bc3f26 pid:[4026531836]');
INSERT INTO "executions" VALUES(2,'e071dda59f897817de1cd9f8b0e85ba28f12009ea4ca3781e407ebb6b3bdb0d6','2a6fe429e2756d8e1067cba8060a8f0493a33fbd247dfa8929a18997ef29fd42','2026-01-02T03:04:05+00:00',1.5,1000,'host 5aac86bc3f26 pid:[4026531836]');
INSERT INTO "executions" VALUES(3,'f9849b25ae50f4717d6c5d94dd30128a3cbf4ac795681f169bd758c20f388762','cd9ff636d7738bd284e2048f6f8f3aa7e933409671494f0850c76da179e893de','2026-01-02T03:04:05+00:00',1.5,1000,'host 5aac86bc3f26 pid:[4026531836]');
INSERT INTO "executions" VALUES(4,'0a2729760c8ef96a31f6d3a4e65619a572631fa30c9634fe2e49688b43295922','4260251e3f5c013c465bb1dfe366067f6a7b186e1298ff08a733225c50fcd99f','2026-01-02T03:04:05+00:00',1.5,1000,'host 5aac86bc3f26 pid:[4026531836]');
CREATE TABLE gate_decisions (
	sequence INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	candidate VARCHAR(64) NOT NULL, 
	baseline VARCHAR(64), 
	policy TEXT NOT NULL, 
	verdict VARCHAR(16) NOT NULL CHECK (verdict IN ('pass', 'fail', 'insufficient', 'invalid')), 
	evidence TEXT NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	signer VARCHAR(64), 
	signature TEXT CHECK ((signer IS NULL) = (signature IS NULL)), 
	PRIMARY KEY (sequence), 
	UNIQUE (id), 
	FOREIGN KEY(candidate) REFERENCES artifacts (id), 
	FOREIGN KEY(baseline) REFERENCES artifacts (id)
);
INSERT INTO "gate_decisions" VALUES(1,'5def6666372342ea71abcc724e5a6eaa0ea9d00df1763da98977d1638e7e41da','ed2365697c2f71e5d6e109db39caa7e5458be789f3a76f97938eb73b253fffc5',NULL,'{"p":1}','pass','{"é":1.5}','2026-11-29T02:14:20.271438+00:00','d541aca4fbf6d1ea1cac38fe397d6511a612e9beaf8193ef48d9978cbd2af6f5','MEQCIFwm60l0Y8Y5w3ukn57UqvNkYGOuWtym57Y4fXQA+SEUAiBwnRGLeOdIkvAtkt8E5TFObXedf+rMNAcd4k5jWXXThg==');
CREATE TABLE gateways (
	id VARCHAR(16) NOT NULL, 
	host TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	pid_started FLOAT NOT NULL, 
	beat FLOAT NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE keys (
	"key" VARCHAR(64) NOT NULL, 
	artifact_id VARCHAR(64) NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	PRIMARY KEY ("key", artifact_id), 
	CONSTRAINT key_is_sha256 CHECK (length(key) = 64), 
	FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
INSERT INTO "keys" VALUES('7fa53b923305b803152e7184d167ef4f630ba03ac09d742ea3e44df294ee2e4b','ed2365697c2f71e5d6e109db39caa7e5458be789f3a76f97938eb73b253fffc5','2026-11-29T02:14:20.028289+00:00');
INSERT INTO "keys" VALUES('2a6fe429e2756d8e1067cba8060a8f0493a33fbd247dfa8929a18997ef29fd42','e071dda59f897817de1cd9f8b0e85ba28f12009ea4ca3781e407ebb6b3bdb0d6','2026-11-29T02:14:20.101438+00:00');
INSERT INTO "keys" VALUES('cd9ff636d7738bd284e2048f6f8f3aa7e933409671494f0850c76da179e893de','f9849b25ae50f4717d6c5d94dd30128a3cbf4ac795681f169bd758c20f388762','2026-11-29T02:14:20.165490+00:00');
INSERT INTO "keys" VALUES('4260251e3f5c013c465bb1dfe366067f6a7b186e1298ff08a733225c50fcd99f','0a2729760c8ef96a31f6d3a4e65619a572631fa30c9634fe2e49688b43295922','2026-11-29T02:14:20.220295+00:00');
CREATE TABLE leases (
	"key" VARCHAR(64) NOT NULL, 
	token INTEGER NOT NULL, 
	stage VARCHAR(64) NOT NULL, 
	host TEXT, 
	pid INTEGER NOT NULL, 
	pid_started FLOAT NOT NULL, 
	acquired VARCHAR(32) NOT NULL, 
	expires FLOAT NOT NULL, 
	holds TEXT, 
	PRIMARY KEY ("key")
);
INSERT INTO "leases" VALUES('7fa53b923305b803152e7184d167ef4f630ba03ac09d742ea3e44df294ee2e4b',1,'resolve',NULL,15099,1795918458.19,'2026-11-29T02:14:19.976982+00:00',1.79592206001879405976e+09,'[]');
INSERT INTO "leases" VALUES('2a6fe429e2756d8e1067cba8060a8f0493a33fbd247dfa8929a18997ef29fd42',1,'resolve',NULL,15099,1795918458.19,'2026-11-29T02:14:20.065867+00:00',1.79592206009883975986e+09,'[]');
INSERT INTO "leases" VALUES('cd9ff636d7738bd284e2048f6f8f3aa7e933409671494f0850c76da179e893de',1,'resolve',NULL,15099,1795918458.19,'2026-11-29T02:14:20.125655+00:00',1.79592206016288828849e+09,'[]');
INSERT INTO "leases" VALUES('4260251e3f5c013c465bb1dfe366067f6a7b186e1298ff08a733225c50fcd99f',1,'resolve',NULL,15099,1795918458.19,'2026-11-29T02:14:20.186719+00:00',1.79592206021339368827e+09,'[]');
CREATE TABLE names (
	sequence INTEGER NOT NULL, 
	name VARCHAR(100) NOT NULL, 
	version INTEGER NOT NULL CHECK (version >= 1), 
	artifact_id VARCHAR(64) NOT NULL, 
	PRIMARY KEY (sequence), 
	UNIQUE (name, version), 
	UNIQUE (name, artifact_id), 
	FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
CREATE TABLE outcomes (
	sequence INTEGER NOT NULL, 
	channel VARCHAR(129) NOT NULL, 
	generation INTEGER NOT NULL CHECK (generation >= 1), 
	artifact_id VARCHAR(64) NOT NULL, 
	arm VARCHAR(6) NOT NULL CHECK (arm IN ('live', 'canary', 'shadow')), 
	minute VARCHAR(32) NOT NULL, 
	requests INTEGER NOT NULL CHECK (requests >= 0), 
	failed INTEGER NOT NULL CHECK (failed BETWEEN 0 AND requests), 
	truncated INTEGER NOT NULL CHECK (truncated BETWEEN 0 AND requests), 
	prompt_tokens INTEGER NOT NULL CHECK (prompt_tokens >= 0), 
	completion_tokens INTEGER NOT NULL CHECK (completion_tokens >= 0), 
	compared INTEGER NOT NULL CHECK (compared >= 0), 
	agreed INTEGER NOT NULL CHECK (agreed BETWEEN 0 AND compared), 
	latencies_ms TEXT NOT NULL, 
	first_token_ms TEXT NOT NULL, 
	PRIMARY KEY (sequence), 
	FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
CREATE TABLE reservations (
	id VARCHAR(32) NOT NULL CHECK (length(id) = 32), 
	gateway VARCHAR(16) NOT NULL, 
	day VARCHAR(10) NOT NULL, 
	tenant VARCHAR(64) NOT NULL, 
	tokens INTEGER NOT NULL CHECK (tokens >= 0), 
	PRIMARY KEY (id), 
	FOREIGN KEY(gateway) REFERENCES gateways (id)
);
CREATE TABLE rollout_events (
	sequence INTEGER NOT NULL, 
	channel VARCHAR(129) NOT NULL, 
	number INTEGER NOT NULL CHECK (number >= 1), 
	action VARCHAR(5) NOT NULL CHECK (action IN ('start', 'stop')), 
	generation INTEGER NOT NULL, 
	candidate VARCHAR(64) NOT NULL, 
	canary_percent FLOAT NOT NULL CHECK (canary_percent BETWEEN 0 AND 100), 
	shadow_percent FLOAT NOT NULL CHECK (shadow_percent BETWEEN 0 AND 100), 
	who TEXT NOT NULL CHECK (length(who) > 0), 
	reason TEXT NOT NULL CHECK (length(reason) > 0), 
	at VARCHAR(32) NOT NULL, 
	previous_digest VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	PRIMARY KEY (sequence), 
	UNIQUE (channel, number), 
	FOREIGN KEY(channel) REFERENCES channels (name), 
	FOREIGN KEY(candidate) REFERENCES artifacts (id), 
	UNIQUE (digest)
);
INSERT INTO "rollout_events" VALUES(1,'team/prod',1,'start',4,'f9849b25ae50f4717d6c5d94dd30128a3cbf4ac795681f169bd758c20f388762',12.5,0.0,'ada','try','2026-11-29T02:14:20.456720+00:00','0000000000000000000000000000000000000000000000000000000000000000','37ac8285c9fa52f16289b9281f0517f3af7686cc8c103b097833a15fa45e6d50');
INSERT INTO "rollout_events" VALUES(2,'team/prod',2,'stop',4,'f9849b25ae50f4717d6c5d94dd30128a3cbf4ac795681f169bd758c20f388762',0.0,0.0,'ada','no','2026-11-29T02:14:20.472379+00:00','37ac8285c9fa52f16289b9281f0517f3af7686cc8c103b097833a15fa45e6d50','cdf0e70115b32f4d2c3b35f1706e6dd935e66910f83cd0dbf79467a88749b5cb');
INSERT INTO "rollout_events" VALUES(3,'team/prod',3,'start',4,'0a2729760c8ef96a31f6d3a4e65619a572631fa30c9634fe2e49688b43295922',1.0,33.3,'ada','again','2026-11-29T02:14:20.487521+00:00','cdf0e70115b32f4d2c3b35f1706e6dd935e66910f83cd0dbf79467a88749b5cb','39b722a06239892834850cc7ab8300635f1ac11e3e47572c7585677508232bab');
CREATE TABLE rollouts (
	channel VARCHAR(129) NOT NULL, 
	number INTEGER NOT NULL CHECK (number >= 1), 
	PRIMARY KEY (channel), 
	FOREIGN KEY(channel) REFERENCES channels (name)
);
INSERT INTO "rollouts" VALUES('team/prod',3);
CREATE TABLE schema_version (
	only INTEGER NOT NULL CHECK ("only" = 1), 
	version INTEGER NOT NULL, 
	PRIMARY KEY (only)
);
INSERT INTO "schema_version" VALUES(1,3);
CREATE TABLE serving_version (
	only INTEGER NOT NULL CHECK ("only" = 1), 
	version INTEGER NOT NULL, 
	PRIMARY KEY (only)
);
INSERT INTO "serving_version" VALUES(1,16);
CREATE TABLE tenant_events (
	sequence INTEGER NOT NULL, 
	tenant VARCHAR(64) NOT NULL, 
	number INTEGER NOT NULL CHECK (number >= 1), 
	action VARCHAR(6) NOT NULL CHECK (action IN ('add', 'change', 'rotate', 'revoke')), 
	state TEXT NOT NULL, 
	who TEXT NOT NULL CHECK (length(who) > 0), 
	at VARCHAR(32) NOT NULL, 
	previous_digest VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	PRIMARY KEY (sequence), 
	UNIQUE (tenant, number), 
	FOREIGN KEY(tenant) REFERENCES tenants (name), 
	UNIQUE (digest)
);
INSERT INTO "tenant_events" VALUES(1,'acme',1,'add','{"channel":"team/prod","keys":{"39845cbae3aa":{"expires":null,"sha256":"1447120e3fa0b53f2805f71ac57556105027338666590afada47dd52a65d8334"}},"limits":{"concurrency":null,"requests_per_minute":3,"tokens_per_day":null},"pinned":false,"salt":"4980669c9ad512589007b1ed07544484ab39c2c905c23e2eaadaf673f9ba1b07"}','ada','2026-11-29T02:14:20.356397+00:00','0000000000000000000000000000000000000000000000000000000000000000','f8a9199d7a08d4062559e92bcf483a776572e3921748cad2e48fc835815f3d50');
INSERT INTO "tenant_events" VALUES(2,'acme',2,'change','{"channel":"team/prod","keys":{"39845cbae3aa":{"expires":null,"sha256":"1447120e3fa0b53f2805f71ac57556105027338666590afada47dd52a65d8334"}},"limits":{"concurrency":null,"requests_per_minute":3,"tokens_per_day":null},"pinned":true,"salt":"4980669c9ad512589007b1ed07544484ab39c2c905c23e2eaadaf673f9ba1b07"}','bob','2026-11-29T02:14:20.375586+00:00','f8a9199d7a08d4062559e92bcf483a776572e3921748cad2e48fc835815f3d50','8137d0fb6298e6d4b4e4411d7c1b95de8b95a9108de22b8c4df6a702ae8b070a');
INSERT INTO "tenant_events" VALUES(3,'acme',3,'rotate','{"channel":"team/prod","keys":{"39845cbae3aa":{"expires":"2026-11-29T03:14:20.386842+00:00","sha256":"1447120e3fa0b53f2805f71ac57556105027338666590afada47dd52a65d8334"},"e18d4f519e90":{"expires":null,"sha256":"2087f592877def60e58d77b7c040f289801b6b57f16cba2c18fad88ca90a0b13"}},"limits":{"concurrency":null,"requests_per_minute":3,"tokens_per_day":null},"pinned":true,"salt":"4980669c9ad512589007b1ed07544484ab39c2c905c23e2eaadaf673f9ba1b07"}','bob','2026-11-29T02:14:20.389793+00:00','8137d0fb6298e6d4b4e4411d7c1b95de8b95a9108de22b8c4df6a702ae8b070a','307c8c96338c4df9fbbd112bfecbb7645cc77fff968ea3bdedcb62297fe49d3c');
INSERT INTO "tenant_events" VALUES(4,'acme',4,'revoke','{"channel":"team/prod","keys":{"e18d4f519e90":{"expires":null,"sha256":"2087f592877def60e58d77b7c040f289801b6b57f16cba2c18fad88ca90a0b13"}},"limits":{"concurrency":null,"requests_per_minute":3,"tokens_per_day":null},"pinned":true,"salt":"4980669c9ad512589007b1ed07544484ab39c2c905c23e2eaadaf673f9ba1b07"}','bob','2026-11-29T02:14:20.404421+00:00','307c8c96338c4df9fbbd112bfecbb7645cc77fff968ea3bdedcb62297fe49d3c','5f1f0c935b83d110136ea4f7f58a440b45bdc1dfe7368b9d8eb6df5c3e7f0915');
INSERT INTO "tenant_events" VALUES(5,'zeta',1,'add','{"channel":"team/prod","keys":{"235d93443e21":{"expires":null,"sha256":"7e2c5b912a6344d7802ed751ac21d54798141a818e9f2830a3984804a7e68fa8"}},"limits":{"concurrency":null,"requests_per_minute":3,"tokens_per_day":null},"pinned":false,"salt":"8f0e7ac46405aa77badb5d5e8c4c9ae7a5bb4c1e09bf00aeedaf536135d00697"}','ada','2026-11-29T02:14:20.412782+00:00','0000000000000000000000000000000000000000000000000000000000000000','b4aa20bb256bff0e2ed380252148e5d2beb6879ff9dd1125011a6d6a5aa9d41d');
INSERT INTO "tenant_events" VALUES(6,'zeta',2,'change','{"channel":"team/prod","keys":{"235d93443e21":{"expires":null,"sha256":"7e2c5b912a6344d7802ed751ac21d54798141a818e9f2830a3984804a7e68fa8"}},"limits":{"concurrency":null,"requests_per_minute":3,"tokens_per_day":null},"pinned":true,"salt":"8f0e7ac46405aa77badb5d5e8c4c9ae7a5bb4c1e09bf00aeedaf536135d00697"}','bob','2026-11-29T02:14:20.420512+00:00','b4aa20bb256bff0e2ed380252148e5d2beb6879ff9dd1125011a6d6a5aa9d41d','402b6d78ca434c8677ce1ed091f111e1cc4e7885e9f68c140751f280256531d2');
INSERT INTO "tenant_events" VALUES(7,'zeta',3,'rotate','{"channel":"team/prod","keys":{"235d93443e21":{"expires":"2026-11-29T03:14:20.427324+00:00","sha256":"7e2c5b912a6344d7802ed751ac21d54798141a818e9f2830a3984804a7e68fa8"},"b4b73876fe3f":{"expires":null,"sha256":"d4673fca9d5956c03983615a95e1e71560cdaaa21ea8f17d3c752c1560838c82"}},"limits":{"concurrency":null,"requests_per_minute":3,"tokens_per_day":null},"pinned":true,"salt":"8f0e7ac46405aa77badb5d5e8c4c9ae7a5bb4c1e09bf00aeedaf536135d00697"}','bob','2026-11-29T02:14:20.428787+00:00','402b6d78ca434c8677ce1ed091f111e1cc4e7885e9f68c140751f280256531d2','9bd728cdafc14a03e073f2df011c340e6968647dab2492b5437a43aa7af44076');
INSERT INTO "tenant_events" VALUES(8,'zeta',4,'revoke','{"channel":"team/prod","keys":{"b4b73876fe3f":{"expires":null,"sha256":"d4673fca9d5956c03983615a95e1e71560cdaaa21ea8f17d3c752c1560838c82"}},"limits":{"concurrency":null,"requests_per_minute":3,"tokens_per_day":null},"pinned":true,"salt":"8f0e7ac46405aa77badb5d5e8c4c9ae7a5bb4c1e09bf00aeedaf536135d00697"}','bob','2026-11-29T02:14:20.443943+00:00','9bd728cdafc14a03e073f2df011c340e6968647dab2492b5437a43aa7af44076','be97acf1f2e01283e8ee32bd40c3512afce6fe7d09cee9c880b8eb0c7bbae049');
CREATE TABLE tenant_keys (
	sequence INTEGER NOT NULL, 
	id VARCHAR(12) NOT NULL CHECK (length(id) = 12), 
	sha256 VARCHAR(64) NOT NULL, 
	tenant VARCHAR(64) NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	expires VARCHAR(32), 
	revoked VARCHAR(32), 
	PRIMARY KEY (sequence), 
	CONSTRAINT sha256_is_sha256 CHECK (length(sha256) = 64), 
	UNIQUE (id), 
	UNIQUE (sha256), 
	FOREIGN KEY(tenant) REFERENCES tenants (name)
);
INSERT INTO "tenant_keys" VALUES(1,'39845cbae3aa','1447120e3fa0b53f2805f71ac57556105027338666590afada47dd52a65d8334','acme','2026-11-29T02:14:20.352512+00:00','2026-11-29T03:14:20.386842+00:00','2026-11-29T02:14:20.403252+00:00');
INSERT INTO "tenant_keys" VALUES(2,'e18d4f519e90','2087f592877def60e58d77b7c040f289801b6b57f16cba2c18fad88ca90a0b13','acme','2026-11-29T02:14:20.388111+00:00',NULL,NULL);
INSERT INTO "tenant_keys" VALUES(3,'235d93443e21','7e2c5b912a6344d7802ed751ac21d54798141a818e9f2830a3984804a7e68fa8','zeta','2026-11-29T02:14:20.412153+00:00','2026-11-29T03:14:20.427324+00:00','2026-11-29T02:14:20.443462+00:00');
INSERT INTO "tenant_keys" VALUES(4,'b4b73876fe3f','d4673fca9d5956c03983615a95e1e71560cdaaa21ea8f17d3c752c1560838c82','zeta','2026-11-29T02:14:20.427906+00:00',NULL,NULL);
CREATE TABLE tenants (
	name VARCHAR(64) NOT NULL, 
	channel VARCHAR(129) NOT NULL, 
	requests_per_minute INTEGER CHECK (requests_per_minute >= 1), 
	concurrency INTEGER CHECK (concurrency >= 1), 
	tokens_per_day INTEGER CHECK (tokens_per_day >= 1), 
	pinned INTEGER NOT NULL CHECK (pinned IN (0, 1)), 
	salt VARCHAR(32) NOT NULL CHECK (length(salt) = 32), 
	created VARCHAR(32) NOT NULL, 
	changes INTEGER NOT NULL CHECK (changes >= 1), 
	PRIMARY KEY (name), 
	UNIQUE (salt)
);
INSERT INTO "tenants" VALUES('acme','team/prod',3,NULL,NULL,1,'00e8514376415b43553c349a9fcc9bcc','2026-11-29T02:14:20.351778+00:00',4);
INSERT INTO "tenants" VALUES('zeta','team/prod',3,NULL,NULL,1,'279e760d35c2fefae038fec40b86b46a','2026-11-29T02:14:20.411935+00:00',4);
CREATE INDEX artifacts_by_base ON artifacts (base_revision, sequence);
CREATE INDEX artifacts_by_quantization ON artifacts (quant_method, sequence);
CREATE INDEX artifacts_by_kind ON artifacts (kind, sequence);
CREATE INDEX artifacts_by_stage ON artifacts (stage, sequence);
CREATE INDEX channel_policies_by_channel ON channel_policies (channel, sequence);
CREATE INDEX edges_by_parent ON edges (parent);
CREATE INDEX ix_executions_artifact_id ON executions (artifact_id);
CREATE INDEX ix_names_artifact_id ON names (artifact_id);
CREATE INDEX content_events_by_artifact ON content_events (artifact_id, sequence);
CREATE INDEX ix_gate_decisions_candidate ON gate_decisions (candidate);
CREATE INDEX ix_tenant_keys_tenant ON tenant_keys (tenant);
CREATE INDEX ix_reservations_gateway ON reservations (gateway);
CREATE INDEX outcomes_by_channel ON outcomes (channel, minute);
CREATE TRIGGER artifacts_no_update BEFORE UPDATE ON artifacts BEGIN SELECT RAISE(ABORT, 'artifacts is immutable'); END;
CREATE TRIGGER artifacts_no_delete BEFORE DELETE ON artifacts BEGIN SELECT RAISE(ABORT, 'artifacts is immutable'); END;
CREATE TRIGGER artifacts_no_replace BEFORE INSERT ON artifacts WHEN EXISTS (SELECT 1 FROM artifacts WHERE id = NEW.id OR sequence = NEW.sequence) BEGIN SELECT RAISE(ABORT, 'artifacts is immutable'); END;
CREATE TRIGGER edges_no_update BEFORE UPDATE ON edges BEGIN SELECT RAISE(ABORT, 'edges is immutable'); END;
CREATE TRIGGER edges_no_delete BEFORE DELETE ON edges BEGIN SELECT RAISE(ABORT, 'edges is immutable'); END;
CREATE TRIGGER edges_no_replace BEFORE INSERT ON edges WHEN EXISTS (SELECT 1 FROM edges WHERE child = NEW.child AND relation = NEW.relation AND parent = NEW.parent) BEGIN SELECT RAISE(ABORT, 'edges is immutable'); END;
CREATE TRIGGER keys_no_update BEFORE UPDATE ON keys BEGIN SELECT RAISE(ABORT, 'keys is immutable'); END;
CREATE TRIGGER keys_no_delete BEFORE DELETE ON keys BEGIN SELECT RAISE(ABORT, 'keys is immutable'); END;
CREATE TRIGGER keys_no_replace BEFORE INSERT ON keys WHEN EXISTS (SELECT 1 FROM keys WHERE key = NEW.key AND artifact_id = NEW.artifact_id) BEGIN SELECT RAISE(ABORT, 'keys is immutable'); END;
CREATE TRIGGER executions_no_update BEFORE UPDATE ON executions BEGIN SELECT RAISE(ABORT, 'executions is immutable'); END;
CREATE TRIGGER executions_no_delete BEFORE DELETE ON executions BEGIN SELECT RAISE(ABORT, 'executions is immutable'); END;
CREATE TRIGGER executions_no_replace BEFORE INSERT ON executions WHEN EXISTS (SELECT 1 FROM executions WHERE sequence = NEW.sequence) BEGIN SELECT RAISE(ABORT, 'executions is immutable'); END;
CREATE TRIGGER names_no_update BEFORE UPDATE ON names BEGIN SELECT RAISE(ABORT, 'names is immutable'); END;
CREATE TRIGGER names_no_delete BEFORE DELETE ON names BEGIN SELECT RAISE(ABORT, 'names is immutable'); END;
CREATE TRIGGER names_no_replace BEFORE INSERT ON names WHEN EXISTS (SELECT 1 FROM names WHERE (name = NEW.name AND (version = NEW.version OR artifact_id = NEW.artifact_id)) OR sequence = NEW.sequence) BEGIN SELECT RAISE(ABORT, 'names is immutable'); END;
CREATE TRIGGER content_events_no_update BEFORE UPDATE ON content_events BEGIN SELECT RAISE(ABORT, 'content_events is immutable'); END;
CREATE TRIGGER content_events_no_delete BEFORE DELETE ON content_events BEGIN SELECT RAISE(ABORT, 'content_events is immutable'); END;
CREATE TRIGGER content_events_no_replace BEFORE INSERT ON content_events WHEN EXISTS (SELECT 1 FROM content_events WHERE sequence = NEW.sequence) BEGIN SELECT RAISE(ABORT, 'content_events is immutable'); END;
CREATE TRIGGER channel_policies_no_update BEFORE UPDATE ON channel_policies BEGIN SELECT RAISE(ABORT, 'channel_policies is immutable'); END;
CREATE TRIGGER channel_policies_no_delete BEFORE DELETE ON channel_policies BEGIN SELECT RAISE(ABORT, 'channel_policies is immutable'); END;
CREATE TRIGGER channel_policies_no_replace BEFORE INSERT ON channel_policies WHEN EXISTS (SELECT 1 FROM channel_policies WHERE sequence = NEW.sequence) BEGIN SELECT RAISE(ABORT, 'channel_policies is immutable'); END;
CREATE TRIGGER gate_decisions_no_update BEFORE UPDATE ON gate_decisions BEGIN SELECT RAISE(ABORT, 'gate_decisions is immutable'); END;
CREATE TRIGGER gate_decisions_no_delete BEFORE DELETE ON gate_decisions BEGIN SELECT RAISE(ABORT, 'gate_decisions is immutable'); END;
CREATE TRIGGER gate_decisions_no_replace BEFORE INSERT ON gate_decisions WHEN EXISTS (SELECT 1 FROM gate_decisions WHERE id = NEW.id OR sequence = NEW.sequence) BEGIN SELECT RAISE(ABORT, 'gate_decisions is immutable'); END;
CREATE TRIGGER channel_events_no_update BEFORE UPDATE ON channel_events BEGIN SELECT RAISE(ABORT, 'channel_events is immutable'); END;
CREATE TRIGGER channel_events_no_delete BEFORE DELETE ON channel_events BEGIN SELECT RAISE(ABORT, 'channel_events is immutable'); END;
CREATE TRIGGER channel_events_no_replace BEFORE INSERT ON channel_events WHEN EXISTS (SELECT 1 FROM channel_events WHERE (channel = NEW.channel AND generation = NEW.generation) OR digest = NEW.digest) BEGIN SELECT RAISE(ABORT, 'channel_events is immutable'); END;
CREATE TRIGGER tenant_events_no_update BEFORE UPDATE ON tenant_events BEGIN SELECT RAISE(ABORT, 'tenant_events is immutable'); END;
CREATE TRIGGER tenant_events_no_delete BEFORE DELETE ON tenant_events BEGIN SELECT RAISE(ABORT, 'tenant_events is immutable'); END;
CREATE TRIGGER tenant_events_no_replace BEFORE INSERT ON tenant_events WHEN EXISTS (SELECT 1 FROM tenant_events WHERE sequence = NEW.sequence OR (tenant = NEW.tenant AND number = NEW.number) OR digest = NEW.digest) BEGIN SELECT RAISE(ABORT, 'tenant_events is immutable'); END;
CREATE TRIGGER rollout_events_no_update BEFORE UPDATE ON rollout_events BEGIN SELECT RAISE(ABORT, 'rollout_events is immutable'); END;
CREATE TRIGGER rollout_events_no_delete BEFORE DELETE ON rollout_events BEGIN SELECT RAISE(ABORT, 'rollout_events is immutable'); END;
CREATE TRIGGER rollout_events_no_replace BEFORE INSERT ON rollout_events WHEN EXISTS (SELECT 1 FROM rollout_events WHERE sequence = NEW.sequence OR (channel = NEW.channel AND number = NEW.number) OR digest = NEW.digest) BEGIN SELECT RAISE(ABORT, 'rollout_events is immutable'); END;
CREATE TRIGGER channels_no_delete BEFORE DELETE ON channels BEGIN SELECT RAISE(ABORT, 'channels are never deleted'); END;
CREATE TRIGGER channels_step BEFORE UPDATE ON channels WHEN NEW.name <> OLD.name OR NEW.generation <> OLD.generation + 1 BEGIN SELECT RAISE(ABORT, 'a channel moves by one generation'); END;
CREATE TRIGGER rollouts_no_delete BEFORE DELETE ON rollouts BEGIN SELECT RAISE(ABORT, 'rollouts are never deleted'); END;
CREATE TRIGGER rollouts_step BEFORE UPDATE ON rollouts WHEN NEW.channel <> OLD.channel OR NEW.number <> OLD.number + 1 BEGIN SELECT RAISE(ABORT, 'a rollout goes from event to event'); END;
CREATE TRIGGER tenants_no_delete BEFORE DELETE ON tenants BEGIN SELECT RAISE(ABORT, 'tenants are never deleted'); END;
CREATE TRIGGER tenants_step BEFORE UPDATE ON tenants WHEN NEW.name <> OLD.name OR NEW.salt <> OLD.salt OR NEW.created <> OLD.created OR NEW.changes <> OLD.changes + 1 BEGIN SELECT RAISE(ABORT, 'a tenant changes with its next event and keeps its name and salt'); END;
CREATE TRIGGER tenant_keys_no_delete BEFORE DELETE ON tenant_keys BEGIN SELECT RAISE(ABORT, 'tenant_keys are never deleted'); END;
CREATE TRIGGER tenant_keys_step BEFORE UPDATE ON tenant_keys WHEN NEW.sequence <> OLD.sequence OR NEW.id <> OLD.id OR NEW.sha256 <> OLD.sha256 OR NEW.tenant <> OLD.tenant OR NEW.created <> OLD.created OR (OLD.expires IS NOT NULL AND (NEW.expires IS NULL OR NEW.expires > OLD.expires)) OR (OLD.revoked IS NOT NULL AND (NEW.revoked IS NULL OR NEW.revoked <> OLD.revoked)) BEGIN SELECT RAISE(ABORT, 'a key stays what it is, and its end only comes nearer'); END;
CREATE TRIGGER channel_events_count AFTER INSERT ON channel_events BEGIN UPDATE serving_version SET version = version + 1; END;
CREATE TRIGGER tenant_events_count AFTER INSERT ON tenant_events BEGIN UPDATE serving_version SET version = version + 1; END;
CREATE TRIGGER rollout_events_count AFTER INSERT ON rollout_events BEGIN UPDATE serving_version SET version = version + 1; END;
CREATE TRIGGER outcomes_no_update BEFORE UPDATE ON outcomes BEGIN SELECT RAISE(ABORT, 'an outcome is not changed'); END;
CREATE TRIGGER edges_point_back BEFORE INSERT ON edges WHEN (SELECT sequence FROM artifacts WHERE id = NEW.parent) >= (SELECT sequence FROM artifacts WHERE id = NEW.child) BEGIN SELECT RAISE(ABORT, 'a parent is older than its child'); END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('artifacts',4);
COMMIT;
