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
INSERT INTO "artifacts" VALUES(1,'bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f','base','resolve',1,'2026-11-22T03:09:14.313227+00:00',31054415,'pico:0','862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa','862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa','256845d2f316592a42420bc0210e29c8d45793026a6273e68a7543d9b4e97698',49152,49152,'872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788','LlamaForCausalLM','none','{}','{}',NULL,NULL,'{}','{"base":{"architecture":"LlamaForCausalLM","chat_template_digest":"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788","embedding_rows":49152,"revision":"862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa","source":"pico:0","tokenizer_digest":"256845d2f316592a42420bc0210e29c8d45793026a6273e68a7543d9b4e97698","tokenizer_length":49152,"weights_digest":"862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa"},"config":{"chat_template":null,"dtype":"bfloat16","source":"pico:0"},"files":{"chat_template.jinja":{"sha256":"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788","size":368},"config.json":{"sha256":"aecadd58eff5a92a006730eabdb8657fef085c27257471fbb4ac11d4ff02e8a6","size":718},"generation_config.json":{"sha256":"ba691a927ae160e4736bfceff8fa45a0d7e8dd9436bbdc99aa1dd15a1617994c","size":216},"model.safetensors":{"sha256":"a769f503e575829386d22836c3c01cc273e594a7ce8138a2e3672789ea1abba6","size":27529880},"tokenizer.json":{"sha256":"e9f1b9eb29e5f4fc508736f874cc7d1321834fb5610e169fb1acae231472321b","size":3523033},"tokenizer_config.json":{"sha256":"b323f076a63590e5d2c107ca2cb206e1e8af03b9d3876c163cf6d76ab8784331","size":200}},"kind":"base","metrics":{"bytes":27527680,"dtype":"BF16","parameters":13763840,"unused_embedding_rows":0},"parents":[],"quant":{"calibration_dataset":null,"effective":{},"merge_base":null,"method":"none","requested":{},"toolchain":{}},"schema_version":1,"stage":"resolve","stage_version":1,"toolchain":{"gguf":"0.19.0","safetensors":"0.8.0","torch":"2.13.0+cpu","transformers":"5.19.0"}}');
INSERT INTO "artifacts" VALUES(2,'d1b612cb853e0cf9e47632557f2aea1cce63f22fd5b4d70050075e53cda57451','dataset','prepare',1,'2026-11-22T03:09:18.259018+00:00',20962,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{"base":null,"config":{"format":"chatterbot-topic","hub_config":null,"hub_split":"train","licence":null,"max_length":64,"max_rejected":0.1,"max_rows":null,"near_duplicates":0.85,"seed":0,"source":"package:chatterbot-corpus/chatterbot_corpus/data/english/co[mn]*.yml@90545c7e5c5ecfcbf40c98ce76e6452e2291ff31c851c2b12b1fc48bd9872654","split":{"test":0.2,"validation":0.1},"system":"Name the topic.","topics":null},"files":{"README.md":{"sha256":"8941b60211ab3126b57fee4397810e218d94aed7a8e86cd557580810b4f50c3e","size":2182},"rejects.jsonl":{"sha256":"88d4c8eb13acddc5f4e98b02f6ee232a79f4800dacd926e60af2609704c71115","size":137},"statistics.json":{"sha256":"a983f76047a66aa201b3a3854358cd441e57067996d6a73ca4ea69c406636207","size":1600},"test.parquet":{"sha256":"bfe481c88c1098cbc3a5fd6e8d11fda434e6621b3d41f63e836c2988837afaf9","size":4449},"train.parquet":{"sha256":"3dbee20222e64b8a06091da4109e840d38ebee4addae93daa2dce3779b883f3b","size":9531},"validation.parquet":{"sha256":"2201fc361519eb78013d37f20f8b34bf6dbe2baa30c0456361b40fef5dec922d","size":3063}},"kind":"dataset","metrics":{"dropped":{"exact_duplicates":0,"near_duplicates":0,"short_utterances":12},"format":"chatterbot-topic","licence":"BSD License","rejected":{"too_long":1},"rows":{"accepted":153,"read":154,"rejected":1},"source_hashes":{"chatterbot_corpus/data/english/computers.yml":"a222c5a432efe4289e6c5edf1c3d99fd26c48df99db0ff893d1d5ab569f5b750","chatterbot_corpus/data/english/conversations.yml":"1cf105b5802f377b2dc145f741f7df85629c9ca27e450538165286a75b5e3416"},"splits":{"test":{"prompts":34,"rows":34,"tokens":1227,"trainable":264},"train":{"prompts":109,"rows":109,"tokens":4065,"trainable":837},"validation":{"prompts":10,"rows":10,"tokens":348,"trainable":79}},"tokens":{"histogram":{"counts":[0,0,0,0,0,0,0,0,0,43,45,24,17,10,4,0,4,2,3,1],"edges":[0,3,6,10,13,16,19,22,26,29,32,35,38,42,45,48,51,54,58,61,64],"unit":"tokens"},"max":63,"mean":36.86,"min":30,"p05":31,"p50":34,"p90":45,"p95":54,"p99":61}},"parents":[{"id":"bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f","relation":"tokenized_for"}],"quant":null,"schema_version":1,"stage":"prepare","stage_version":1,"toolchain":{"datasets":"5.2.0","pyarrow":"26.0.1","transformers":"5.19.0"}}');
INSERT INTO "artifacts" VALUES(3,'67a3217772562a42567c23c74f8652714e6f3d39d9ab34cb0e46c8fb719f091f','evaluation','evaluate',1,'2026-11-22T03:09:23.834401+00:00',13744,'pico:0','862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa','862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa','256845d2f316592a42420bc0210e29c8d45793026a6273e68a7543d9b4e97698',49152,49152,'872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788','LlamaForCausalLM',NULL,NULL,NULL,NULL,NULL,NULL,'{"base":{"architecture":"LlamaForCausalLM","chat_template_digest":"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788","embedding_rows":49152,"revision":"862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa","source":"pico:0","tokenizer_digest":"256845d2f316592a42420bc0210e29c8d45793026a6273e68a7543d9b4e97698","tokenizer_length":49152,"weights_digest":"862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa"},"config":{"batch_size":16,"context_length":2048,"float16_on_cpu":"float32","nf4":{"compute_dtype":"bfloat16","double_quant":true,"quant_type":"nf4"},"questions":[],"seed":0,"tasks":[{"choice":false,"kind":"heldout","max_items":32,"max_new_tokens":12,"name":"routing"}]},"files":{"answers.json":{"sha256":"37517e5f3dc66819f61f5a7bb8ace1921282415f10551d2defa5c3eb0985b570","size":3},"results.json":{"sha256":"8e8c684950488f27fab2e66cc20f29693b9a7f87648749d8cabc21d0faa836a7","size":1609},"samples_routing.jsonl":{"sha256":"ce95124635115fc94d84bfe26283af0596933e5a10df1700a22acf4300bfe5ff","size":12132}},"kind":"evaluation","metrics":{"bits_per_weight":14.982408978889612,"bytes":25776935,"computed_with":"NF4 with double quantization, computed in bfloat16 with transformers 5.19.0 on cpu","measured_on":"routing: 32 items of the test split of dataset d1b612cb853e","parameters":13763840,"tasks":{"routing":{"exact_match":{"high":0.10717919825507058,"interval":"wilson","low":0.0,"n":32,"value":0.0},"json_valid":{"high":0.10717919825507058,"interval":"wilson","low":0.0,"n":32,"value":0.0}}}},"parents":[{"id":"bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f","relation":"evaluation_of"},{"id":"d1b612cb853e0cf9e47632557f2aea1cce63f22fd5b4d70050075e53cda57451","relation":"evaluated_on"}],"quant":null,"schema_version":1,"stage":"evaluate","stage_version":1,"toolchain":{"bitsandbytes":"0.50.2","gptqmodel":"7.6.0","llama-cpp-python":"0.3.36","lm-eval":"0.4.13","peft":"0.21.2","torch":"2.13.0+cpu","transformers":"5.19.0"}}');
INSERT INTO "artifacts" VALUES(4,'fdc01410ee5f963ccf6ae1d451047ca98b75613c357b1e23515fdb65b3a050ce','adapter','train',1,'2026-11-22T03:09:31.386208+00:00',3793423,'pico:0','862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa','862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa','256845d2f316592a42420bc0210e29c8d45793026a6273e68a7543d9b4e97698',49152,49152,'872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788','LlamaForCausalLM','bnb','{"compute_dtype":"bfloat16","double_quant":true,"quant_type":"nf4"}','{"bits_per_weight":4.127,"block_size":64,"frozen_weights":"dequantized","layers":14,"quant_type":"nf4","weights":1179648}',NULL,NULL,'{"bitsandbytes":"0.50.2","torch":"2.13.0+cpu","transformers":"5.19.0"}','{"base":{"architecture":"LlamaForCausalLM","chat_template_digest":"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788","embedding_rows":49152,"revision":"862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa","source":"pico:0","tokenizer_digest":"256845d2f316592a42420bc0210e29c8d45793026a6273e68a7543d9b4e97698","tokenizer_length":49152,"weights_digest":"862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa"},"config":{"batch_size":8,"checkpoint_every":50,"epochs":1.0,"evaluations":2,"frozen_weights":"auto","gradient_accumulation":1,"gradient_checkpointing":false,"learning_rate":0.01,"lora":{"alpha":16,"dropout":0.0,"modules_to_save":[],"rank":8,"rslora":false,"target_modules":"all-linear"},"max_grad_norm":0.3,"max_length":64,"max_steps":40,"nf4":{"compute_dtype":"bfloat16","double_quant":true,"quant_type":"nf4"},"optimizer":"paged_adamw_32bit","packing":false,"schedule":"cosine","seed":0,"warmup_ratio":0.03,"weight_decay":0.0},"files":{"adapter_config.json":{"sha256":"cfc8c3e47c4694ac38465a5e09c997efc40ebec301f9b61dc0012006bd10496e","size":1223},"adapter_model.safetensors":{"sha256":"54a7a8ac8fa2eaf56a8957ac230d21052888a222db7ea0a977c6591751ba03ee","size":265704},"chat_template.jinja":{"sha256":"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788","size":368},"history.jsonl":{"sha256":"deb3da623d330b91c25fe6e0f1c80c58b0e142f2fb0441b409c610fbe78cacaa","size":1439},"tokenizer.json":{"sha256":"e9f1b9eb29e5f4fc508736f874cc7d1321834fb5610e169fb1acae231472321b","size":3523033},"tokenizer_config.json":{"sha256":"b323f076a63590e5d2c107ca2cb206e1e8af03b9d3876c163cf6d76ab8784331","size":200},"tuneline.json":{"sha256":"722cf2806aef3d590e760575b3a653028296c7795f9cd07d60bb10512eb9a25b","size":1456}},"kind":"adapter","metrics":{"rows":109,"steps":14,"tokens":4175,"train_loss_last_10_steps":9.171901512145997,"trainable_parameters":65536,"validation_loss":8.278960795342167,"validation_losses":[[5,8.9210630006428],[9,9.556192518789556],[14,8.278960795342167]],"validation_rows":10},"parents":[{"id":"bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f","relation":"adapter"},{"id":"d1b612cb853e0cf9e47632557f2aea1cce63f22fd5b4d70050075e53cda57451","relation":"trained_on"}],"quant":{"calibration_dataset":null,"effective":{"bits_per_weight":4.127,"block_size":64,"frozen_weights":"dequantized","layers":14,"quant_type":"nf4","weights":1179648},"merge_base":null,"method":"bnb","requested":{"compute_dtype":"bfloat16","double_quant":true,"quant_type":"nf4"},"toolchain":{"bitsandbytes":"0.50.2","torch":"2.13.0+cpu","transformers":"5.19.0"}},"schema_version":1,"stage":"train","stage_version":1,"toolchain":{"accelerate":"1.15.0","bitsandbytes":"0.50.2","peft":"0.21.2","torch":"2.13.0+cpu","transformers":"5.19.0","trl":"1.16.0"}}');
INSERT INTO "artifacts" VALUES(5,'c2507b5260948fd6d1ce8bc32f8db90a7e933d5b130a182f98f7a2bf63ae5680','evaluation','evaluate',1,'2026-11-22T03:09:37.351432+00:00',12757,'pico:0','862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa','862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa','256845d2f316592a42420bc0210e29c8d45793026a6273e68a7543d9b4e97698',49152,49152,'872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788','LlamaForCausalLM',NULL,NULL,NULL,NULL,NULL,NULL,'{"base":{"architecture":"LlamaForCausalLM","chat_template_digest":"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788","embedding_rows":49152,"revision":"862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa","source":"pico:0","tokenizer_digest":"256845d2f316592a42420bc0210e29c8d45793026a6273e68a7543d9b4e97698","tokenizer_length":49152,"weights_digest":"862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa"},"config":{"batch_size":16,"context_length":2048,"float16_on_cpu":"float32","nf4":{"compute_dtype":"bfloat16","double_quant":true,"quant_type":"nf4"},"questions":[],"seed":0,"tasks":[{"choice":false,"kind":"heldout","max_items":32,"max_new_tokens":12,"name":"routing"}]},"files":{"answers.json":{"sha256":"37517e5f3dc66819f61f5a7bb8ace1921282415f10551d2defa5c3eb0985b570","size":3},"results.json":{"sha256":"87dd2ae7b3fe2fc050b3e12ff9bee3d613c32a66da1a6f4004e2cc612f817c33","size":1712},"samples_routing.jsonl":{"sha256":"80970c9d40852160aefd45559ffa32170f688b321c239f3c25e97852f1d11a11","size":11042}},"kind":"evaluation","metrics":{"bits_per_weight":15.136844950246443,"bytes":26042639,"computed_with":"NF4 with double quantization, computed in bfloat16 with transformers 5.19.0, with a LoRA adapter on cpu","measured_on":"routing: 32 items of the test split of dataset d1b612cb853e","parameters":13763840,"tasks":{"routing":{"exact_match":{"high":0.10717919825507058,"interval":"wilson","low":0.0,"n":32,"value":0.0},"json_valid":{"high":0.10717919825507058,"interval":"wilson","low":0.0,"n":32,"value":0.0}}}},"parents":[{"id":"bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f","relation":"evaluation_of"},{"id":"fdc01410ee5f963ccf6ae1d451047ca98b75613c357b1e23515fdb65b3a050ce","relation":"evaluation_of"},{"id":"d1b612cb853e0cf9e47632557f2aea1cce63f22fd5b4d70050075e53cda57451","relation":"evaluated_on"}],"quant":null,"schema_version":1,"stage":"evaluate","stage_version":1,"toolchain":{"bitsandbytes":"0.50.2","gptqmodel":"7.6.0","llama-cpp-python":"0.3.36","lm-eval":"0.4.13","peft":"0.21.2","torch":"2.13.0+cpu","transformers":"5.19.0"}}');
INSERT INTO "artifacts" VALUES(6,'d6b13ebe38ff1ae228770acb36a7da73310e864baaca0fa95306e6d4f3a6f2c0','merged','merge',1,'2026-11-22T03:09:41.300979+00:00',31054418,'pico:0','862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa','862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa','256845d2f316592a42420bc0210e29c8d45793026a6273e68a7543d9b4e97698',49152,49152,'872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788','LlamaForCausalLM','none','{"dtype":"float16"}','{"bits_per_weight":16.0,"dtype":"float16"}',NULL,'16bit','{"bitsandbytes":"0.50.2","safetensors":"0.8.0","torch":"2.13.0+cpu","transformers":"5.19.0"}','{"base":{"architecture":"LlamaForCausalLM","chat_template_digest":"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788","embedding_rows":49152,"revision":"862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa","source":"pico:0","tokenizer_digest":"256845d2f316592a42420bc0210e29c8d45793026a6273e68a7543d9b4e97698","tokenizer_length":49152,"weights_digest":"862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa"},"config":{"dtype":"float16","fold_into":"16bit","shard_size":2000000000},"files":{"chat_template.jinja":{"sha256":"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788","size":368},"config.json":{"sha256":"69aed833be0b4c44e2eded8d3cb4c503ca667ec26d100e33ab45b6800e60c3dd","size":745},"generation_config.json":{"sha256":"ba691a927ae160e4736bfceff8fa45a0d7e8dd9436bbdc99aa1dd15a1617994c","size":216},"model.safetensors":{"sha256":"b3859f734f8144bd39dd56d2671b65ba09c37c3015803b816b665169f54a4506","size":27529856},"tokenizer.json":{"sha256":"e9f1b9eb29e5f4fc508736f874cc7d1321834fb5610e169fb1acae231472321b","size":3523033},"tokenizer_config.json":{"sha256":"b323f076a63590e5d2c107ca2cb206e1e8af03b9d3876c163cf6d76ab8784331","size":200}},"kind":"merged","metrics":{"bytes":27527680,"dtype":"float16","largest_absolute_value":1.0,"parameters":13763840,"shards":1,"tensors_copied":6,"tensors_merged":14,"tensors_replaced":0,"tensors_rounded_to_nf4":0,"tied_embeddings":true},"parents":[{"id":"bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f","relation":"merge"},{"id":"fdc01410ee5f963ccf6ae1d451047ca98b75613c357b1e23515fdb65b3a050ce","relation":"merge"}],"quant":{"calibration_dataset":null,"effective":{"bits_per_weight":16.0,"dtype":"float16"},"merge_base":"16bit","method":"none","requested":{"dtype":"float16"},"toolchain":{"bitsandbytes":"0.50.2","safetensors":"0.8.0","torch":"2.13.0+cpu","transformers":"5.19.0"}},"schema_version":1,"stage":"merge","stage_version":1,"toolchain":{"bitsandbytes":"0.50.2","safetensors":"0.8.0","torch":"2.13.0+cpu","transformers":"5.19.0"}}');
INSERT INTO "artifacts" VALUES(7,'2b8dce7b2b0da2de43649331024387f0d00b8a17f43ec2bd4838a9f9776771eb','evaluation','evaluate',1,'2026-11-22T03:09:46.110004+00:00',12705,'pico:0','862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa','862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa','256845d2f316592a42420bc0210e29c8d45793026a6273e68a7543d9b4e97698',49152,49152,'872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788','LlamaForCausalLM',NULL,NULL,NULL,NULL,NULL,NULL,'{"base":{"architecture":"LlamaForCausalLM","chat_template_digest":"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788","embedding_rows":49152,"revision":"862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa","source":"pico:0","tokenizer_digest":"256845d2f316592a42420bc0210e29c8d45793026a6273e68a7543d9b4e97698","tokenizer_length":49152,"weights_digest":"862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa"},"config":{"batch_size":16,"context_length":2048,"float16_on_cpu":"float32","nf4":null,"questions":[],"seed":0,"tasks":[{"choice":false,"kind":"heldout","max_items":32,"max_new_tokens":12,"name":"routing"}]},"files":{"answers.json":{"sha256":"37517e5f3dc66819f61f5a7bb8ace1921282415f10551d2defa5c3eb0985b570","size":3},"results.json":{"sha256":"6f9ad0f03417f9c6daf23a16104d870590c190a6a39452a48c55daf96058b64d","size":1660},"samples_routing.jsonl":{"sha256":"88d384cfca3b29af51464068b1802d926d3a4a8235a2840b52a864c45b719b29","size":11042}},"kind":"evaluation","metrics":{"bits_per_weight":16.0,"bytes":27527680,"computed_with":"float16 weights, computed in float32 with transformers 5.19.0 on cpu","measured_on":"routing: 32 items of the test split of dataset d1b612cb853e","parameters":13763840,"tasks":{"routing":{"exact_match":{"high":0.10717919825507058,"interval":"wilson","low":0.0,"n":32,"value":0.0},"json_valid":{"high":0.10717919825507058,"interval":"wilson","low":0.0,"n":32,"value":0.0}}}},"parents":[{"id":"d6b13ebe38ff1ae228770acb36a7da73310e864baaca0fa95306e6d4f3a6f2c0","relation":"evaluation_of"},{"id":"bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f","relation":"tokenized_for"},{"id":"d1b612cb853e0cf9e47632557f2aea1cce63f22fd5b4d70050075e53cda57451","relation":"evaluated_on"}],"quant":null,"schema_version":1,"stage":"evaluate","stage_version":1,"toolchain":{"bitsandbytes":"0.50.2","gptqmodel":"7.6.0","llama-cpp-python":"0.3.36","lm-eval":"0.4.13","peft":"0.21.2","torch":"2.13.0+cpu","transformers":"5.19.0"}}');
INSERT INTO "artifacts" VALUES(8,'a7138a2e37fd9680378079e06939ee1411fb18421d9d600fbe0d7050daf231fd','quantized','quantize',1,'2026-11-22T03:09:55.249077+00:00',16398336,'pico:0','862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa','862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa','256845d2f316592a42420bc0210e29c8d45793026a6273e68a7543d9b4e97698',49152,49152,'872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788','LlamaForCausalLM','gguf','{"method":"gguf","type":"Q8_0"}','{"architecture":"llama","bits_per_weight":8.502185436622337,"bytes":16398336,"chat_template":{"present":true,"sha256":"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788"},"converted_as":"f16","fallbacks":{"block":32,"by_type":{},"count":0,"of":15,"rows_not_divisible":0,"wanted":"Q8_0"},"file_bits_per_weight":9.531256393564586,"file_type":"Q8_0","format":"gguf","llama_cpp":{"converter":"0.3.36","converter_commit":"0c1e57098bba43ac29e6e3b677cdceebdd22334f","runtime":"0.3.36","runtime_commit":"0c1e570-dirty","sdist_sha256":"832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"},"parameters":13763840,"pre_tokenizer":"smollm","token_parity":{"bos":true,"chats":4,"eos":true,"equal":4},"types":{"F32":5,"Q8_0":15}}',NULL,'16bit','{"gguf":"0.19.0","gptqmodel":"7.6.0","llama-cpp-python":"0.3.36","sentencepiece":"0.2.3","torch":"2.13.0+cpu","transformers":"5.19.0"}','{"base":{"architecture":"LlamaForCausalLM","chat_template_digest":"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788","embedding_rows":49152,"revision":"862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa","source":"pico:0","tokenizer_digest":"256845d2f316592a42420bc0210e29c8d45793026a6273e68a7543d9b4e97698","tokenizer_length":49152,"weights_digest":"862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa"},"config":{"method":"gguf","type":"Q8_0"},"files":{"model.gguf":{"sha256":"db43fcb9810ed433741136571e149c7486c9553ce973cb660010febbcc1dd60b","size":16398336}},"kind":"quantized","metrics":{"bits_per_weight":8.502185436622337,"bytes":16398336,"parameters":13763840},"parents":[{"id":"d6b13ebe38ff1ae228770acb36a7da73310e864baaca0fa95306e6d4f3a6f2c0","relation":"quantized"}],"quant":{"calibration_dataset":null,"effective":{"architecture":"llama","bits_per_weight":8.502185436622337,"bytes":16398336,"chat_template":{"present":true,"sha256":"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788"},"converted_as":"f16","fallbacks":{"block":32,"by_type":{},"count":0,"of":15,"rows_not_divisible":0,"wanted":"Q8_0"},"file_bits_per_weight":9.531256393564586,"file_type":"Q8_0","format":"gguf","llama_cpp":{"converter":"0.3.36","converter_commit":"0c1e57098bba43ac29e6e3b677cdceebdd22334f","runtime":"0.3.36","runtime_commit":"0c1e570-dirty","sdist_sha256":"832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"},"parameters":13763840,"pre_tokenizer":"smollm","token_parity":{"bos":true,"chats":4,"eos":true,"equal":4},"types":{"F32":5,"Q8_0":15}},"merge_base":"16bit","method":"gguf","requested":{"method":"gguf","type":"Q8_0"},"toolchain":{"gguf":"0.19.0","gptqmodel":"7.6.0","llama-cpp-python":"0.3.36","sentencepiece":"0.2.3","torch":"2.13.0+cpu","transformers":"5.19.0"}},"schema_version":1,"stage":"quantize","stage_version":1,"toolchain":{"gguf":"0.19.0","gptqmodel":"7.6.0","llama-cpp-python":"0.3.36","sentencepiece":"0.2.3","torch":"2.13.0+cpu","transformers":"5.19.0"}}');
INSERT INTO "artifacts" VALUES(9,'748edd395fb29fb60e1583b699517af71953fa3eb7cabe185ebde98200ebe3af','evaluation','evaluate',1,'2026-11-22T03:10:00.258709+00:00',12705,'pico:0','862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa','862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa','256845d2f316592a42420bc0210e29c8d45793026a6273e68a7543d9b4e97698',49152,49152,'872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788','LlamaForCausalLM',NULL,NULL,NULL,NULL,NULL,NULL,'{"base":{"architecture":"LlamaForCausalLM","chat_template_digest":"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788","embedding_rows":49152,"revision":"862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa","source":"pico:0","tokenizer_digest":"256845d2f316592a42420bc0210e29c8d45793026a6273e68a7543d9b4e97698","tokenizer_length":49152,"weights_digest":"862436f9110f048c40874968abd2cde4403d2227a543519a71a35b1431b7a3aa"},"config":{"batch_size":16,"context_length":2048,"float16_on_cpu":"float32","nf4":null,"questions":[],"seed":0,"tasks":[{"choice":false,"kind":"heldout","max_items":32,"max_new_tokens":12,"name":"routing"}]},"files":{"answers.json":{"sha256":"37517e5f3dc66819f61f5a7bb8ace1921282415f10551d2defa5c3eb0985b570","size":3},"results.json":{"sha256":"629a0cb5f1baf552d09d88539f4c0da8688c0b5cebe440b42e16c435f297c47a","size":1660},"samples_routing.jsonl":{"sha256":"88d384cfca3b29af51464068b1802d926d3a4a8235a2840b52a864c45b719b29","size":11042}},"kind":"evaluation","metrics":{"bits_per_weight":8.502185436622337,"bytes":16398336,"computed_with":"GGUF Q8_0 on llama.cpp (llama-cpp-python 0.3.36) on cpu","measured_on":"routing: 32 items of the test split of dataset d1b612cb853e","parameters":13763840,"tasks":{"routing":{"exact_match":{"high":0.10717919825507058,"interval":"wilson","low":0.0,"n":32,"value":0.0},"json_valid":{"high":0.10717919825507058,"interval":"wilson","low":0.0,"n":32,"value":0.0}}}},"parents":[{"id":"a7138a2e37fd9680378079e06939ee1411fb18421d9d600fbe0d7050daf231fd","relation":"evaluation_of"},{"id":"bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f","relation":"tokenized_for"},{"id":"d1b612cb853e0cf9e47632557f2aea1cce63f22fd5b4d70050075e53cda57451","relation":"evaluated_on"}],"quant":null,"schema_version":1,"stage":"evaluate","stage_version":1,"toolchain":{"bitsandbytes":"0.50.2","gptqmodel":"7.6.0","llama-cpp-python":"0.3.36","lm-eval":"0.4.13","peft":"0.21.2","torch":"2.13.0+cpu","transformers":"5.19.0"}}');
INSERT INTO "artifacts" VALUES(10,'283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb','dataset','prepare',1,'2026-11-22T06:27:32.793070+00:00',3,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{"base":null,"config":{},"files":{"text.txt":{"sha256":"7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed","size":3}},"kind":"dataset","metrics":{},"parents":[],"quant":null,"schema_version":1,"stage":"prepare","stage_version":1,"toolchain":{"tuneline":"0.1.0"}}');
INSERT INTO "artifacts" VALUES(11,'77b15657530253a7ab12456aa04c1fee42fe25193cff9032c06b43a2e69c5a04','dataset','prepare',1,'2026-11-22T06:27:32.809224+00:00',3,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{"base":null,"config":{},"files":{"text.txt":{"sha256":"3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3","size":3}},"kind":"dataset","metrics":{},"parents":[],"quant":null,"schema_version":1,"stage":"prepare","stage_version":1,"toolchain":{"tuneline":"0.1.0"}}');
INSERT INTO "artifacts" VALUES(12,'ffbd34f92475b9b43e50e5702b1902a064ea2f210ccf5aa644576baeb19de8dd','dataset','prepare',1,'2026-11-22T06:27:32.822230+00:00',5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{"base":null,"config":{},"files":{"text.txt":{"sha256":"8b5b9db0c13db24256c829aa364aa90c6d2eba318b9232a4ab9313b954d3555f","size":5}},"kind":"dataset","metrics":{},"parents":[{"id":"283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb","relation":"trained_on"}],"quant":null,"schema_version":1,"stage":"prepare","stage_version":1,"toolchain":{"tuneline":"0.1.0"}}');
INSERT INTO "artifacts" VALUES(13,'7f8b01dd4e88ead012ff125b50ced6acc91db20c789a085c99b00a028f3eca07','base','prepare',1,'2026-11-22T06:27:32.836158+00:00',4,'hub:acme/tiny','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',100,128,'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd','LlamaForCausalLM','none','{}','{}',NULL,NULL,'{}','{"base":{"architecture":"LlamaForCausalLM","chat_template_digest":"dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd","embedding_rows":128,"revision":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","source":"hub:acme/tiny","tokenizer_digest":"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc","tokenizer_length":100,"weights_digest":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"},"config":{},"files":{"text.txt":{"sha256":"cae662172fd450bb0cd710a769079c05bfc5d8e35efa6576edc7d0377afdd4a2","size":4}},"kind":"base","metrics":{},"parents":[],"quant":{"calibration_dataset":null,"effective":{},"merge_base":null,"method":"none","requested":{},"toolchain":{}},"schema_version":1,"stage":"prepare","stage_version":1,"toolchain":{"tuneline":"0.1.0"}}');
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
INSERT INTO "channel_events" VALUES('pico/smoke',1,'move','a7138a2e37fd9680378079e06939ee1411fb18421d9d600fbe0d7050daf231fd',NULL,'14c6dad97d2d5e6db45ad201e47c3d7f168766087deffec51b3d9f5ca7f57512',NULL,NULL,'2026-11-22T03:10:00.289007+00:00','0000000000000000000000000000000000000000000000000000000000000000','eb7759946e99113ffd433c907bcebc0c168cd28df568338ae374c67b10c0d54b');
INSERT INTO "channel_events" VALUES('pico/smoke',2,'move','d6b13ebe38ff1ae228770acb36a7da73310e864baaca0fa95306e6d4f3a6f2c0',NULL,NULL,'the smaller file answered badly','on call','2026-11-22T03:11:24.278734+00:00','eb7759946e99113ffd433c907bcebc0c168cd28df568338ae374c67b10c0d54b','ce2f0eced2985676c017d0dda8f88f91dcd3840ace222aa9771f4c18376fac07');
INSERT INTO "channel_events" VALUES('pico/smoke',3,'rollback','a7138a2e37fd9680378079e06939ee1411fb18421d9d600fbe0d7050daf231fd',1,NULL,'the larger one did too','on call','2026-11-22T03:11:24.284158+00:00','ce2f0eced2985676c017d0dda8f88f91dcd3840ace222aa9771f4c18376fac07','3993887a67f342324ea40f6fbf8a1d09342e21216b94170235c1b16eec9da89a');
INSERT INTO "channel_events" VALUES('team/prod',1,'move','283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb',NULL,'69346d4fc5d550258502e288e5a1f11e9bf94bbb7024bdad26e0efdc36dae6bb',NULL,NULL,'2026-11-22T06:27:32.848856+00:00','0000000000000000000000000000000000000000000000000000000000000000','b28c3e93fbfa1b35c836aee4ff0fcb311ea9cccfff7e4cb826cd06dc96278ca4');
INSERT INTO "channel_events" VALUES('team/prod',2,'move','77b15657530253a7ab12456aa04c1fee42fe25193cff9032c06b43a2e69c5a04',NULL,NULL,'for Monday','ada','2026-11-22T06:27:32.851298+00:00','b28c3e93fbfa1b35c836aee4ff0fcb311ea9cccfff7e4cb826cd06dc96278ca4','f21a70bce6a879181c237538cbd94db9c703b912f0180b53613d0397d43d36e3');
INSERT INTO "channel_events" VALUES('team/prod',3,'rollback','283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb',1,NULL,'Monday is over','ada','2026-11-22T06:27:32.853452+00:00','f21a70bce6a879181c237538cbd94db9c703b912f0180b53613d0397d43d36e3','7bdde28928f5a9e2c3a36b8fb7e7cdbae5686aa9ae703416b6c72118357d9f9a');
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
INSERT INTO "channel_policies" VALUES(1,'team/prod','{"margin":0.01}','df8b55efe6bcfe0ded2736ac8224a1b04ca20a3ea2ac2ce1c26a4074e300089e','ada','less is not enough','2026-11-22T06:27:32.839865+00:00');
CREATE TABLE channels (
	name VARCHAR(129) NOT NULL, 
	artifact_id VARCHAR(64) NOT NULL, 
	generation INTEGER NOT NULL CHECK (generation >= 1), 
	moved VARCHAR(32) NOT NULL, 
	PRIMARY KEY (name), 
	FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
INSERT INTO "channels" VALUES('pico/smoke','a7138a2e37fd9680378079e06939ee1411fb18421d9d600fbe0d7050daf231fd',3,'2026-11-22T03:11:24.284158+00:00');
INSERT INTO "channels" VALUES('team/prod','283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb',3,'2026-11-22T06:27:32.853452+00:00');
CREATE TABLE content_events (
        sequence INTEGER NOT NULL,
        artifact_id VARCHAR(64) NOT NULL,
        action VARCHAR(9) NOT NULL CHECK (action IN ('collected', 'restored')),
        bytes INTEGER NOT NULL,
        at VARCHAR(32) NOT NULL,
        PRIMARY KEY (sequence),
        FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
    );
INSERT INTO "content_events" VALUES(1,'ffbd34f92475b9b43e50e5702b1902a064ea2f210ccf5aa644576baeb19de8dd','collected',5,'2026-11-22T06:27:32.856801+00:00');
INSERT INTO "content_events" VALUES(2,'ffbd34f92475b9b43e50e5702b1902a064ea2f210ccf5aa644576baeb19de8dd','restored',5,'2026-11-22T06:27:32.857099+00:00');
INSERT INTO "content_events" VALUES(3,'ffbd34f92475b9b43e50e5702b1902a064ea2f210ccf5aa644576baeb19de8dd','collected',5,'2026-11-22T06:27:32.857155+00:00');
CREATE TABLE edges (
	child VARCHAR(64) NOT NULL, 
	relation VARCHAR(16) NOT NULL, 
	parent VARCHAR(64) NOT NULL, 
	PRIMARY KEY (child, relation, parent), 
	CONSTRAINT nothing_is_its_own_parent CHECK (child <> parent), 
	FOREIGN KEY(child) REFERENCES artifacts (id), 
	FOREIGN KEY(parent) REFERENCES artifacts (id)
);
INSERT INTO "edges" VALUES('d1b612cb853e0cf9e47632557f2aea1cce63f22fd5b4d70050075e53cda57451','tokenized_for','bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f');
INSERT INTO "edges" VALUES('67a3217772562a42567c23c74f8652714e6f3d39d9ab34cb0e46c8fb719f091f','evaluated_on','d1b612cb853e0cf9e47632557f2aea1cce63f22fd5b4d70050075e53cda57451');
INSERT INTO "edges" VALUES('67a3217772562a42567c23c74f8652714e6f3d39d9ab34cb0e46c8fb719f091f','evaluation_of','bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f');
INSERT INTO "edges" VALUES('fdc01410ee5f963ccf6ae1d451047ca98b75613c357b1e23515fdb65b3a050ce','adapter','bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f');
INSERT INTO "edges" VALUES('fdc01410ee5f963ccf6ae1d451047ca98b75613c357b1e23515fdb65b3a050ce','trained_on','d1b612cb853e0cf9e47632557f2aea1cce63f22fd5b4d70050075e53cda57451');
INSERT INTO "edges" VALUES('c2507b5260948fd6d1ce8bc32f8db90a7e933d5b130a182f98f7a2bf63ae5680','evaluated_on','d1b612cb853e0cf9e47632557f2aea1cce63f22fd5b4d70050075e53cda57451');
INSERT INTO "edges" VALUES('c2507b5260948fd6d1ce8bc32f8db90a7e933d5b130a182f98f7a2bf63ae5680','evaluation_of','bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f');
INSERT INTO "edges" VALUES('c2507b5260948fd6d1ce8bc32f8db90a7e933d5b130a182f98f7a2bf63ae5680','evaluation_of','fdc01410ee5f963ccf6ae1d451047ca98b75613c357b1e23515fdb65b3a050ce');
INSERT INTO "edges" VALUES('d6b13ebe38ff1ae228770acb36a7da73310e864baaca0fa95306e6d4f3a6f2c0','merge','bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f');
INSERT INTO "edges" VALUES('d6b13ebe38ff1ae228770acb36a7da73310e864baaca0fa95306e6d4f3a6f2c0','merge','fdc01410ee5f963ccf6ae1d451047ca98b75613c357b1e23515fdb65b3a050ce');
INSERT INTO "edges" VALUES('2b8dce7b2b0da2de43649331024387f0d00b8a17f43ec2bd4838a9f9776771eb','evaluated_on','d1b612cb853e0cf9e47632557f2aea1cce63f22fd5b4d70050075e53cda57451');
INSERT INTO "edges" VALUES('2b8dce7b2b0da2de43649331024387f0d00b8a17f43ec2bd4838a9f9776771eb','evaluation_of','d6b13ebe38ff1ae228770acb36a7da73310e864baaca0fa95306e6d4f3a6f2c0');
INSERT INTO "edges" VALUES('2b8dce7b2b0da2de43649331024387f0d00b8a17f43ec2bd4838a9f9776771eb','tokenized_for','bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f');
INSERT INTO "edges" VALUES('a7138a2e37fd9680378079e06939ee1411fb18421d9d600fbe0d7050daf231fd','quantized','d6b13ebe38ff1ae228770acb36a7da73310e864baaca0fa95306e6d4f3a6f2c0');
INSERT INTO "edges" VALUES('748edd395fb29fb60e1583b699517af71953fa3eb7cabe185ebde98200ebe3af','evaluated_on','d1b612cb853e0cf9e47632557f2aea1cce63f22fd5b4d70050075e53cda57451');
INSERT INTO "edges" VALUES('748edd395fb29fb60e1583b699517af71953fa3eb7cabe185ebde98200ebe3af','evaluation_of','a7138a2e37fd9680378079e06939ee1411fb18421d9d600fbe0d7050daf231fd');
INSERT INTO "edges" VALUES('748edd395fb29fb60e1583b699517af71953fa3eb7cabe185ebde98200ebe3af','tokenized_for','bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f');
INSERT INTO "edges" VALUES('ffbd34f92475b9b43e50e5702b1902a064ea2f210ccf5aa644576baeb19de8dd','trained_on','283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb');
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
INSERT INTO "endpoints" VALUES(1,'ade37afc','a7138a2e37fd9680378079e06939ee1411fb18421d9d600fbe0d7050daf231fd','pico/smoke','llama.cpp','http://127.0.0.1:44989',6376,1795317000.16,'/home/user/.tuneline/runs/20261122-030851-d7f2de/deploy/engine.log','2026-11-22T03:10:04.620026+00:00','2026-11-22T03:10:59.419596+00:00','What is a computer?','{"topic": "": "": "": "": "": "": "": "": "": "": "": "": "": "": "": "": "": "": "": "": "":":":":":":":":":":":":":":":":":":":":','{"context_length":2048,"engine":"llama.cpp","host":"127.0.0.1","max_new_tokens":64,"port":0,"question":"What is a computer?","ready_timeout":120.0,"system":"Name the topic.","threads":null,"ttl_minutes":5.0}');
INSERT INTO "endpoints" VALUES(2,'8b2441e6','283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb','team/prod','llama.cpp','http://127.0.0.1:8080',4321,1795316929.66,'endpoint.log','2026-11-22T06:27:32.854317+00:00',NULL,'Which?','This.','{}');
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
INSERT INTO "executions" VALUES(1,'bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f','9eaba652024b1082f2a3f292f9264d4d12063ee70187043f4dcfab0ae4fd0676','2026-11-22T03:09:05.157162+00:00',9.0975799560546875e+00,699842560,'host pid:[4026531836]');
INSERT INTO "executions" VALUES(2,'d1b612cb853e0cf9e47632557f2aea1cce63f22fd5b4d70050075e53cda57451','bfaf960ca80803628d392c2a7cee3a11286d418439f0571561e31f7f369e3002','2026-11-22T03:09:14.338428+00:00',3.89809370040893554687e+00,579964928,'host pid:[4026531836]');
INSERT INTO "executions" VALUES(3,'67a3217772562a42567c23c74f8652714e6f3d39d9ab34cb0e46c8fb719f091f','bcdc101bdda6d072555841d7afa22ecd234fe99fc02be4a1c689503e4326d369','2026-11-22T03:09:18.286192+00:00',5.53664731979370117187e+00,764510208,'host pid:[4026531836]');
INSERT INTO "executions" VALUES(4,'fdc01410ee5f963ccf6ae1d451047ca98b75613c357b1e23515fdb65b3a050ce','c522f1ac1767666d015225da9a7a9f96366a0655548f199ba58fb7b08154756b','2026-11-22T03:09:23.855821+00:00',7.50792145729064941406e+00,1134505984,'host pid:[4026531836]');
INSERT INTO "executions" VALUES(5,'c2507b5260948fd6d1ce8bc32f8db90a7e933d5b130a182f98f7a2bf63ae5680','7acabb4f1113325124e686259a63570aea568b049bcd6f1b5b2f689fb182714b','2026-11-22T03:09:31.412043+00:00',5.92888331413269,827572224,'host pid:[4026531836]');
INSERT INTO "executions" VALUES(6,'d6b13ebe38ff1ae228770acb36a7da73310e864baaca0fa95306e6d4f3a6f2c0','2444cb901a13cf534ea1a824c42a35654ae8b98bce8848e2a7f717d2998f987f','2026-11-22T03:09:37.370454+00:00',3.88377547264099121093e+00,576118784,'host pid:[4026531836]');
INSERT INTO "executions" VALUES(7,'2b8dce7b2b0da2de43649331024387f0d00b8a17f43ec2bd4838a9f9776771eb','a7ebf2667d3ac7b9366a6985a0959a582f5b473ca6f5077974eb1c8a7b2141a8','2026-11-22T03:09:41.322172+00:00',4.77667784690856933593e+00,738324480,'host pid:[4026531836]');
INSERT INTO "executions" VALUES(8,'a7138a2e37fd9680378079e06939ee1411fb18421d9d600fbe0d7050daf231fd','758664387d42abf5faad19bb37c6133a9bdf7735fdc76f4b45afa49694095bd3','2026-11-22T03:09:46.133109+00:00',9.07610154151916503906e+00,602746880,'host pid:[4026531836]');
INSERT INTO "executions" VALUES(9,'748edd395fb29fb60e1583b699517af71953fa3eb7cabe185ebde98200ebe3af','ef0cec5a32ee541b9526020a90c2091cfae1546a76260ef0ab03980fe9de642c','2026-11-22T03:09:55.273628+00:00',4.97581195831298828125e+00,718675968,'host pid:[4026531836]');
INSERT INTO "executions" VALUES(10,'283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb','64b31f380d4ef0c441625c87473f3c0b29c8ad8460953931b9c1a19db4025d8d','2026-11-22T03:04:05+00:00',1.5,1099511627776,'laptop 5aac86bc3f26 pid:[4026531836]');
INSERT INTO "executions" VALUES(11,'77b15657530253a7ab12456aa04c1fee42fe25193cff9032c06b43a2e69c5a04','11c549d52d06f09bfa253320e820817feaa26a41535c83e98a64ee9fc259fb45','2026-11-22T03:04:05+00:00',1.5,1099511627776,'laptop 5aac86bc3f26 pid:[4026531836]');
INSERT INTO "executions" VALUES(12,'ffbd34f92475b9b43e50e5702b1902a064ea2f210ccf5aa644576baeb19de8dd','c58ac20f87f0a3a4b315377ef7f378338e4fccf27b9f2d1814af977253779a08','2026-11-22T03:04:05+00:00',1.5,1099511627776,'laptop 5aac86bc3f26 pid:[4026531836]');
INSERT INTO "executions" VALUES(13,'7f8b01dd4e88ead012ff125b50ced6acc91db20c789a085c99b00a028f3eca07','114c28de8cf3149b7857291f462a13b9f7e5e424de938b4854a59bc0f2fb5bf7','2026-11-22T03:04:05+00:00',1.5,1099511627776,'laptop 5aac86bc3f26 pid:[4026531836]');
CREATE TABLE gate_decisions (
	sequence INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	candidate VARCHAR(64) NOT NULL, 
	baseline VARCHAR(64), 
	policy TEXT NOT NULL, 
	verdict VARCHAR(16) NOT NULL CHECK (verdict IN ('pass', 'fail', 'insufficient', 'invalid')), 
	evidence TEXT NOT NULL, 
	created VARCHAR(32) NOT NULL, signer VARCHAR(64), signature TEXT CHECK ((signer IS NULL) = (signature IS NULL)), 
	PRIMARY KEY (sequence), 
	UNIQUE (id), 
	FOREIGN KEY(candidate) REFERENCES artifacts (id), 
	FOREIGN KEY(baseline) REFERENCES artifacts (id)
);
INSERT INTO "gate_decisions" VALUES(1,'14c6dad97d2d5e6db45ad201e47c3d7f168766087deffec51b3d9f5ca7f57512','a7138a2e37fd9680378079e06939ee1411fb18421d9d600fbe0d7050daf231fd','bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f','{"max_bits_per_weight":null,"max_bytes":null,"tasks":[{"against":"parent","alpha":0.05,"margin":0.2,"metric":"exact_match","role":"keep","task":"routing"}]}','pass','{"evidence":{"baseline":"4a58f8198fa400548a731edf3be4a04c8ab11e40adf6d45c84dac7da96725a9c","candidate":"fff087acdd2fb46fd731ce3fd98e77a08112a89ef9304f838c008ca6dacb5f30","parent":"4b611d74c76c81e044013b177fa68067808efadc59a229d831ba1ee0ec660aa2"},"rules":[{"discordant":0,"effect":0.0,"high":0.0779570980547819,"low":-0.0779570980547819,"more_items":null,"n":32,"rule":"routing/exact_match keep against parent","sentence":"routing/exact_match: +0.0 points against the merged model on 32 paired items (0 gained, 0 lost; with 95 % confidence at least -7.8, at most +7.8): shown to be worse by less than 20 points.","verdict":"pass"}],"verdict":"pass"}','2026-11-22T03:10:00.278632+00:00',NULL,NULL);
INSERT INTO "gate_decisions" VALUES(2,'519b0b4da78df584abcc7cd325e35f511bec2e8a7bdea9840049e3bbcfcdb20c','d6b13ebe38ff1ae228770acb36a7da73310e864baaca0fa95306e6d4f3a6f2c0','a7138a2e37fd9680378079e06939ee1411fb18421d9d600fbe0d7050daf231fd','{"tasks":[]}','insufficient','{"items":3}','2026-11-22T03:11:24.291073+00:00',NULL,NULL);
INSERT INTO "gate_decisions" VALUES(3,'69346d4fc5d550258502e288e5a1f11e9bf94bbb7024bdad26e0efdc36dae6bb','283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb',NULL,'{"margin":0.01}','pass','{"items":100}','2026-11-22T06:27:32.845504+00:00','dbd07e345c966ff4ff773616f887a3ae0f4b2d5afac3446422d3fec899192f5b','MEYCIQChYZjd9kCXdn8MfoOJMDr3d5ZiHXqE0gdxydlH4IX9mQIhAO+PCxZiTo1ZeDvZdUizq4xjr3mT9sIGpYVwBaWDF23/');
CREATE TABLE "keys" (
        "key" VARCHAR(64) NOT NULL,
        artifact_id VARCHAR(64) NOT NULL,
        created VARCHAR(32) NOT NULL,
        PRIMARY KEY ("key", artifact_id),
        CONSTRAINT key_is_sha256 CHECK (length("key") = 64),
        FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
    );
INSERT INTO "keys" VALUES('9eaba652024b1082f2a3f292f9264d4d12063ee70187043f4dcfab0ae4fd0676','bc5aca7a63a40c1522505e0742a1abf62114c1358b4efd64e691da555f27170f','2026-11-22T03:09:14.313227+00:00');
INSERT INTO "keys" VALUES('bfaf960ca80803628d392c2a7cee3a11286d418439f0571561e31f7f369e3002','d1b612cb853e0cf9e47632557f2aea1cce63f22fd5b4d70050075e53cda57451','2026-11-22T03:09:18.259018+00:00');
INSERT INTO "keys" VALUES('bcdc101bdda6d072555841d7afa22ecd234fe99fc02be4a1c689503e4326d369','67a3217772562a42567c23c74f8652714e6f3d39d9ab34cb0e46c8fb719f091f','2026-11-22T03:09:23.834401+00:00');
INSERT INTO "keys" VALUES('c522f1ac1767666d015225da9a7a9f96366a0655548f199ba58fb7b08154756b','fdc01410ee5f963ccf6ae1d451047ca98b75613c357b1e23515fdb65b3a050ce','2026-11-22T03:09:31.386208+00:00');
INSERT INTO "keys" VALUES('7acabb4f1113325124e686259a63570aea568b049bcd6f1b5b2f689fb182714b','c2507b5260948fd6d1ce8bc32f8db90a7e933d5b130a182f98f7a2bf63ae5680','2026-11-22T03:09:37.351432+00:00');
INSERT INTO "keys" VALUES('2444cb901a13cf534ea1a824c42a35654ae8b98bce8848e2a7f717d2998f987f','d6b13ebe38ff1ae228770acb36a7da73310e864baaca0fa95306e6d4f3a6f2c0','2026-11-22T03:09:41.300979+00:00');
INSERT INTO "keys" VALUES('a7ebf2667d3ac7b9366a6985a0959a582f5b473ca6f5077974eb1c8a7b2141a8','2b8dce7b2b0da2de43649331024387f0d00b8a17f43ec2bd4838a9f9776771eb','2026-11-22T03:09:46.110004+00:00');
INSERT INTO "keys" VALUES('758664387d42abf5faad19bb37c6133a9bdf7735fdc76f4b45afa49694095bd3','a7138a2e37fd9680378079e06939ee1411fb18421d9d600fbe0d7050daf231fd','2026-11-22T03:09:55.249077+00:00');
INSERT INTO "keys" VALUES('ef0cec5a32ee541b9526020a90c2091cfae1546a76260ef0ab03980fe9de642c','748edd395fb29fb60e1583b699517af71953fa3eb7cabe185ebde98200ebe3af','2026-11-22T03:10:00.258709+00:00');
INSERT INTO "keys" VALUES('64b31f380d4ef0c441625c87473f3c0b29c8ad8460953931b9c1a19db4025d8d','283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb','2026-11-22T06:27:32.793070+00:00');
INSERT INTO "keys" VALUES('11c549d52d06f09bfa253320e820817feaa26a41535c83e98a64ee9fc259fb45','77b15657530253a7ab12456aa04c1fee42fe25193cff9032c06b43a2e69c5a04','2026-11-22T06:27:32.809224+00:00');
INSERT INTO "keys" VALUES('c58ac20f87f0a3a4b315377ef7f378338e4fccf27b9f2d1814af977253779a08','ffbd34f92475b9b43e50e5702b1902a064ea2f210ccf5aa644576baeb19de8dd','2026-11-22T06:27:32.822230+00:00');
INSERT INTO "keys" VALUES('114c28de8cf3149b7857291f462a13b9f7e5e424de938b4854a59bc0f2fb5bf7','7f8b01dd4e88ead012ff125b50ced6acc91db20c789a085c99b00a028f3eca07','2026-11-22T06:27:32.836158+00:00');
CREATE TABLE leases (
	"key" VARCHAR(64) NOT NULL, 
	token INTEGER NOT NULL, 
	stage VARCHAR(64) NOT NULL, 
	host TEXT, 
	pid INTEGER NOT NULL, 
	pid_started FLOAT NOT NULL, 
	acquired VARCHAR(32) NOT NULL, 
	expires FLOAT NOT NULL, holds TEXT, 
	PRIMARY KEY ("key")
);
INSERT INTO "leases" VALUES('9eaba652024b1082f2a3f292f9264d4d12063ee70187043f4dcfab0ae4fd0676',1,'resolve',NULL,5061,1795316929.66,'2026-11-22T03:09:05.153628+00:00',1.79532055431242704396e+09,NULL);
INSERT INTO "leases" VALUES('bfaf960ca80803628d392c2a7cee3a11286d418439f0571561e31f7f369e3002',1,'prepare',NULL,5061,1795316929.66,'2026-11-22T03:09:14.335124+00:00',1.79532055825838351252e+09,NULL);
INSERT INTO "leases" VALUES('bcdc101bdda6d072555841d7afa22ecd234fe99fc02be4a1c689503e4326d369',1,'evaluate',NULL,5061,1795316929.66,'2026-11-22T03:09:18.280136+00:00',1.79532056383387732508e+09,NULL);
INSERT INTO "leases" VALUES('c522f1ac1767666d015225da9a7a9f96366a0655548f199ba58fb7b08154756b',1,'train',NULL,5061,1795316929.66,'2026-11-22T03:09:23.848846+00:00',1.79532057138556408884e+09,NULL);
INSERT INTO "leases" VALUES('7acabb4f1113325124e686259a63570aea568b049bcd6f1b5b2f689fb182714b',1,'evaluate',NULL,5061,1795316929.66,'2026-11-22T03:09:31.407452+00:00',1.79532057735084939003e+09,NULL);
INSERT INTO "leases" VALUES('2444cb901a13cf534ea1a824c42a35654ae8b98bce8848e2a7f717d2998f987f',1,'merge',NULL,5061,1795316929.66,'2026-11-22T03:09:37.366296+00:00',1.79532058130029153822e+09,NULL);
INSERT INTO "leases" VALUES('a7ebf2667d3ac7b9366a6985a0959a582f5b473ca6f5077974eb1c8a7b2141a8',1,'evaluate',NULL,5061,1795316929.66,'2026-11-22T03:09:41.316843+00:00',1.7953205861094584465e+09,NULL);
INSERT INTO "leases" VALUES('758664387d42abf5faad19bb37c6133a9bdf7735fdc76f4b45afa49694095bd3',1,'quantize',NULL,5061,1795316929.66,'2026-11-22T03:09:46.128325+00:00',1.79532059524831676478e+09,NULL);
INSERT INTO "leases" VALUES('ef0cec5a32ee541b9526020a90c2091cfae1546a76260ef0ab03980fe9de642c',1,'evaluate',NULL,5061,1795316929.66,'2026-11-22T03:09:55.268775+00:00',1.79532060025815224648e+09,NULL);
INSERT INTO "leases" VALUES('64b31f380d4ef0c441625c87473f3c0b29c8ad8460953931b9c1a19db4025d8d',1,'prepare',NULL,14297,1795328852.01,'2026-11-22T06:27:32.780567+00:00',1.79533245279059243196e+09,'[]');
INSERT INTO "leases" VALUES('11c549d52d06f09bfa253320e820817feaa26a41535c83e98a64ee9fc259fb45',1,'prepare',NULL,14297,1795328852.01,'2026-11-22T06:27:32.800290+00:00',1.79533245280836367607e+09,'[]');
INSERT INTO "leases" VALUES('c58ac20f87f0a3a4b315377ef7f378338e4fccf27b9f2d1814af977253779a08',1,'prepare',NULL,14297,1795328852.01,'2026-11-22T06:27:32.813709+00:00',1.79533245282128834721e+09,'[]');
INSERT INTO "leases" VALUES('114c28de8cf3149b7857291f462a13b9f7e5e424de938b4854a59bc0f2fb5bf7',1,'prepare',NULL,14297,1795328852.01,'2026-11-22T06:27:32.831023+00:00',1.79533245283526134488e+09,'[]');
INSERT INTO "leases" VALUES('eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',1,'train','laptop 0123456789ab',14297,1795328852.01,'2026-11-22T06:27:32.857859+00:00',1.79533245285786700242e+09,'["283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb"]');
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
INSERT INTO "names" VALUES(1,'pico-smoke',1,'d6b13ebe38ff1ae228770acb36a7da73310e864baaca0fa95306e6d4f3a6f2c0');
INSERT INTO "names" VALUES(2,'pico-smoke',2,'a7138a2e37fd9680378079e06939ee1411fb18421d9d600fbe0d7050daf231fd');
INSERT INTO "names" VALUES(3,'first',1,'283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb');
CREATE TABLE schema_version (
	only INTEGER NOT NULL CHECK (only = 1), 
	version INTEGER NOT NULL, 
	PRIMARY KEY (only)
);
INSERT INTO "schema_version" VALUES(1,2);
CREATE INDEX artifacts_by_kind ON artifacts (kind, sequence);
CREATE INDEX edges_by_parent ON edges (parent);
CREATE INDEX ix_executions_artifact_id ON executions (artifact_id);
CREATE INDEX ix_names_artifact_id ON names (artifact_id);
CREATE INDEX ix_gate_decisions_candidate ON gate_decisions (candidate);
CREATE INDEX artifacts_by_stage ON artifacts (stage, sequence);
CREATE INDEX artifacts_by_base ON artifacts (base_revision, sequence);
CREATE INDEX artifacts_by_quantization ON artifacts (quant_method, sequence);
CREATE INDEX content_events_by_artifact ON content_events (artifact_id, sequence);
CREATE INDEX channel_policies_by_channel ON channel_policies (channel, sequence);
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
CREATE TRIGGER channels_no_delete BEFORE DELETE ON channels BEGIN SELECT RAISE(ABORT, 'channels are never deleted'); END;
CREATE TRIGGER channels_step BEFORE UPDATE ON channels WHEN NEW.name <> OLD.name OR NEW.generation <> OLD.generation + 1 BEGIN SELECT RAISE(ABORT, 'a channel moves by one generation'); END;
CREATE TRIGGER edges_point_back BEFORE INSERT ON edges WHEN (SELECT sequence FROM artifacts WHERE id = NEW.parent) >= (SELECT sequence FROM artifacts WHERE id = NEW.child) BEGIN SELECT RAISE(ABORT, 'a parent is older than its child'); END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('artifacts',13);
COMMIT;
