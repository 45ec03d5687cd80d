SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE FUNCTION public.tuneline_parent_is_older() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO '$user', 'public'
    AS $$ BEGIN IF (SELECT sequence FROM artifacts WHERE id = NEW.parent) >= (SELECT sequence FROM artifacts WHERE id = NEW.child) THEN RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', MESSAGE = 'a parent is older than its child'; END IF; RETURN NEW; END $$;
CREATE FUNCTION public.tuneline_refuse() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', MESSAGE = TG_ARGV[0]; END $$;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.artifacts (
    sequence integer NOT NULL,
    id character varying(64) NOT NULL COLLATE pg_catalog."C",
    kind character varying(16) NOT NULL COLLATE pg_catalog."C",
    stage character varying(64) NOT NULL COLLATE pg_catalog."C",
    stage_version integer NOT NULL,
    created character varying(32) NOT NULL COLLATE pg_catalog."C",
    bytes bigint NOT NULL,
    base_source text,
    base_revision text,
    base_weights_digest character varying(64) COLLATE pg_catalog."C",
    base_tokenizer_digest character varying(64) COLLATE pg_catalog."C",
    base_tokenizer_length integer,
    base_embedding_rows integer,
    base_chat_template_digest character varying(64) COLLATE pg_catalog."C",
    base_architecture text,
    quant_method character varying(8) COLLATE pg_catalog."C",
    quant_requested text,
    quant_effective text,
    quant_calibration_dataset character varying(64) COLLATE pg_catalog."C",
    quant_merge_base character varying(8) COLLATE pg_catalog."C",
    quant_toolchain text,
    manifest text NOT NULL,
    CONSTRAINT a_model_names_its_base_and_quantization CHECK ((((kind)::text <> ALL ((ARRAY['base'::character varying, 'adapter'::character varying, 'merged'::character varying, 'quantized'::character varying])::text[])) OR ((base_source IS NOT NULL) AND (base_revision IS NOT NULL) AND (base_weights_digest IS NOT NULL) AND (base_tokenizer_digest IS NOT NULL) AND (base_tokenizer_length IS NOT NULL) AND (base_embedding_rows IS NOT NULL) AND (base_chat_template_digest IS NOT NULL) AND (base_architecture IS NOT NULL) AND (quant_method IS NOT NULL) AND (quant_requested IS NOT NULL) AND (quant_effective IS NOT NULL) AND (quant_toolchain IS NOT NULL)))),
    CONSTRAINT base_chat_template_digest_is_sha256 CHECK ((length((base_chat_template_digest)::text) = 64)),
    CONSTRAINT base_tokenizer_digest_is_sha256 CHECK ((length((base_tokenizer_digest)::text) = 64)),
    CONSTRAINT base_weights_digest_is_sha256 CHECK ((length((base_weights_digest)::text) = 64)),
    CONSTRAINT id_is_sha256 CHECK ((length((id)::text) = 64)),
    CONSTRAINT known_kind CHECK (((kind)::text = ANY ((ARRAY['base'::character varying, 'adapter'::character varying, 'merged'::character varying, 'quantized'::character varying, 'dataset'::character varying, 'evaluation'::character varying])::text[]))),
    CONSTRAINT known_merge_base CHECK (((quant_merge_base)::text = ANY ((ARRAY['16bit'::character varying, 'nf4'::character varying])::text[]))),
    CONSTRAINT known_quantization CHECK (((quant_method)::text = ANY ((ARRAY['none'::character varying, 'bnb'::character varying, 'gptq'::character varying, 'gguf'::character varying])::text[]))),
    CONSTRAINT quantized_says_how CHECK ((((kind)::text <> 'quantized'::text) OR ((quant_method)::text <> 'none'::text))),
    CONSTRAINT revision_is_pinned CHECK ((length(base_revision) >= 7)),
    CONSTRAINT vocabulary_is_known CHECK (((base_tokenizer_length > 0) AND (base_embedding_rows > 0)))
);
CREATE SEQUENCE public.artifacts_sequence_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.artifacts_sequence_seq OWNED BY public.artifacts.sequence;
CREATE TABLE public.channel_events (
    channel character varying(129) NOT NULL COLLATE pg_catalog."C",
    generation integer NOT NULL,
    action character varying(8) NOT NULL COLLATE pg_catalog."C",
    artifact_id character varying(64) NOT NULL COLLATE pg_catalog."C",
    restores integer,
    decision_id character varying(64) COLLATE pg_catalog."C",
    reason text,
    who text,
    at character varying(32) NOT NULL COLLATE pg_catalog."C",
    previous_digest character varying(64) NOT NULL COLLATE pg_catalog."C",
    digest character varying(64) NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT channel_events_action_check CHECK (((action)::text = ANY ((ARRAY['move'::character varying, 'rollback'::character varying])::text[]))),
    CONSTRAINT decided_by_a_gate_or_a_person CHECK (((((action)::text = 'move'::text) AND (decision_id IS NOT NULL)) OR ((length(reason) > 0) AND (length(who) > 0))))
);
COMMENT ON COLUMN public.channel_events.restores IS 'generation that a rollback went back to';
CREATE TABLE public.channel_policies (
    sequence integer NOT NULL,
    channel character varying(129) NOT NULL COLLATE pg_catalog."C",
    policy text NOT NULL,
    digest character varying(64) NOT NULL COLLATE pg_catalog."C",
    who text NOT NULL,
    reason text NOT NULL,
    at character varying(32) NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT channel_policies_reason_check CHECK ((length(reason) > 0)),
    CONSTRAINT channel_policies_who_check CHECK ((length(who) > 0))
);
COMMENT ON TABLE public.channel_policies IS 'the latest is the channel''s policy';
CREATE SEQUENCE public.channel_policies_sequence_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.channel_policies_sequence_seq OWNED BY public.channel_policies.sequence;
CREATE TABLE public.channels (
    name character varying(129) NOT NULL COLLATE pg_catalog."C",
    artifact_id character varying(64) NOT NULL COLLATE pg_catalog."C",
    generation integer NOT NULL,
    moved character varying(32) NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT channels_generation_check CHECK ((generation >= 1))
);
CREATE TABLE public.content_events (
    sequence integer NOT NULL,
    artifact_id character varying(64) NOT NULL COLLATE pg_catalog."C",
    action character varying(9) NOT NULL COLLATE pg_catalog."C",
    bytes bigint NOT NULL,
    at character varying(32) NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT content_events_action_check CHECK (((action)::text = ANY ((ARRAY['collected'::character varying, 'restored'::character varying])::text[])))
);
COMMENT ON TABLE public.content_events IS 'an artifact''s files are in the store unless its latest event says ''collected''';
CREATE SEQUENCE public.content_events_sequence_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.content_events_sequence_seq OWNED BY public.content_events.sequence;
CREATE TABLE public.edges (
    child character varying(64) NOT NULL COLLATE pg_catalog."C",
    relation character varying(16) NOT NULL COLLATE pg_catalog."C",
    parent character varying(64) NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT nothing_is_its_own_parent CHECK (((child)::text <> (parent)::text))
);
CREATE TABLE public.endpoints (
    sequence integer NOT NULL,
    id character varying(16) NOT NULL COLLATE pg_catalog."C",
    artifact_id character varying(64) NOT NULL COLLATE pg_catalog."C",
    channel character varying(129) COLLATE pg_catalog."C",
    engine character varying(32) NOT NULL COLLATE pg_catalog."C",
    url text NOT NULL,
    pid integer NOT NULL,
    pid_started double precision NOT NULL,
    log text NOT NULL,
    started character varying(32) NOT NULL COLLATE pg_catalog."C",
    stopped character varying(32) COLLATE pg_catalog."C",
    question text,
    answer text,
    config text NOT NULL
);
CREATE SEQUENCE public.endpoints_sequence_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.endpoints_sequence_seq OWNED BY public.endpoints.sequence;
CREATE TABLE public.executions (
    sequence integer NOT NULL,
    artifact_id character varying(64) NOT NULL COLLATE pg_catalog."C",
    key character varying(64) NOT NULL COLLATE pg_catalog."C",
    started character varying(40) NOT NULL COLLATE pg_catalog."C",
    seconds double precision NOT NULL,
    peak_bytes bigint,
    host text NOT NULL
);
CREATE SEQUENCE public.executions_sequence_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.executions_sequence_seq OWNED BY public.executions.sequence;
CREATE TABLE public.gate_decisions (
    sequence integer NOT NULL,
    id character varying(64) NOT NULL COLLATE pg_catalog."C",
    candidate character varying(64) NOT NULL COLLATE pg_catalog."C",
    baseline character varying(64) COLLATE pg_catalog."C",
    policy text NOT NULL,
    verdict character varying(16) NOT NULL COLLATE pg_catalog."C",
    evidence text NOT NULL,
    created character varying(32) NOT NULL COLLATE pg_catalog."C",
    signer character varying(64) COLLATE pg_catalog."C",
    signature text,
    CONSTRAINT gate_decisions_check CHECK (((signer IS NULL) = (signature IS NULL))),
    CONSTRAINT gate_decisions_verdict_check CHECK (((verdict)::text = ANY ((ARRAY['pass'::character varying, 'fail'::character varying, 'insufficient'::character varying, 'invalid'::character varying])::text[])))
);
COMMENT ON COLUMN public.gate_decisions.signer IS 'sha256 of the public key';
COMMENT ON COLUMN public.gate_decisions.signature IS 'base64';
CREATE SEQUENCE public.gate_decisions_sequence_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.gate_decisions_sequence_seq OWNED BY public.gate_decisions.sequence;
CREATE TABLE public.keys (
    key character varying(64) NOT NULL COLLATE pg_catalog."C",
    artifact_id character varying(64) NOT NULL COLLATE pg_catalog."C",
    created character varying(32) NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT key_is_sha256 CHECK ((length((key)::text) = 64))
);
COMMENT ON TABLE public.keys IS 'a key may be bound again once the content of what it was bound to was collected';
CREATE TABLE public.leases (
    key character varying(64) NOT NULL COLLATE pg_catalog."C",
    token integer NOT NULL,
    stage character varying(64) NOT NULL COLLATE pg_catalog."C",
    host text,
    pid integer NOT NULL,
    pid_started double precision NOT NULL,
    acquired character varying(32) NOT NULL COLLATE pg_catalog."C",
    expires double precision NOT NULL,
    holds text
);
COMMENT ON COLUMN public.leases.host IS 'null once released; the row stays so that the token never goes back';
COMMENT ON COLUMN public.leases.expires IS 'seconds since the epoch';
COMMENT ON COLUMN public.leases.holds IS 'JSON list of the artifacts that the work reads';
CREATE TABLE public.names (
    sequence integer NOT NULL,
    name character varying(100) NOT NULL COLLATE pg_catalog."C",
    version integer NOT NULL,
    artifact_id character varying(64) NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT names_version_check CHECK ((version >= 1))
);
CREATE SEQUENCE public.names_sequence_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.names_sequence_seq OWNED BY public.names.sequence;
CREATE TABLE public.schema_version (
    "only" integer NOT NULL,
    version integer NOT NULL,
    CONSTRAINT schema_version_only_check CHECK (("only" = 1))
);
ALTER TABLE ONLY public.artifacts ALTER COLUMN sequence SET DEFAULT nextval('public.artifacts_sequence_seq'::regclass);
ALTER TABLE ONLY public.channel_policies ALTER COLUMN sequence SET DEFAULT nextval('public.channel_policies_sequence_seq'::regclass);
ALTER TABLE ONLY public.content_events ALTER COLUMN sequence SET DEFAULT nextval('public.content_events_sequence_seq'::regclass);
ALTER TABLE ONLY public.endpoints ALTER COLUMN sequence SET DEFAULT nextval('public.endpoints_sequence_seq'::regclass);
ALTER TABLE ONLY public.executions ALTER COLUMN sequence SET DEFAULT nextval('public.executions_sequence_seq'::regclass);
ALTER TABLE ONLY public.gate_decisions ALTER COLUMN sequence SET DEFAULT nextval('public.gate_decisions_sequence_seq'::regclass);
ALTER TABLE ONLY public.names ALTER COLUMN sequence SET DEFAULT nextval('public.names_sequence_seq'::regclass);
INSERT INTO public.artifacts VALUES (1, '283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb', 'dataset', 'prepare', 1, '2026-11-22T06:27:33.293931+00:00', 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '{"base":null,"config":{},"files":{"text.txt":{"sha256":"7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed","size":3}},"kind":"dataset","metrics":{},"parents":[],"quant":null,"schema_version":1,"stage":"prepare","stage_version":1,"toolchain":{"tuneline":"0.1.0"}}');
INSERT INTO public.artifacts VALUES (2, '77b15657530253a7ab12456aa04c1fee42fe25193cff9032c06b43a2e69c5a04', 'dataset', 'prepare', 1, '2026-11-22T06:27:33.308930+00:00', 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '{"base":null,"config":{},"files":{"text.txt":{"sha256":"3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3","size":3}},"kind":"dataset","metrics":{},"parents":[],"quant":null,"schema_version":1,"stage":"prepare","stage_version":1,"toolchain":{"tuneline":"0.1.0"}}');
INSERT INTO public.artifacts VALUES (3, 'ffbd34f92475b9b43e50e5702b1902a064ea2f210ccf5aa644576baeb19de8dd', 'dataset', 'prepare', 1, '2026-11-22T06:27:33.320835+00:00', 5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '{"base":null,"config":{},"files":{"text.txt":{"sha256":"8b5b9db0c13db24256c829aa364aa90c6d2eba318b9232a4ab9313b954d3555f","size":5}},"kind":"dataset","metrics":{},"parents":[{"id":"283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb","relation":"trained_on"}],"quant":null,"schema_version":1,"stage":"prepare","stage_version":1,"toolchain":{"tuneline":"0.1.0"}}');
INSERT INTO public.artifacts VALUES (4, '7f8b01dd4e88ead012ff125b50ced6acc91db20c789a085c99b00a028f3eca07', 'base', 'prepare', 1, '2026-11-22T06:27:33.336166+00:00', 4, 'hub:acme/tiny', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', 100, 128, 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', 'LlamaForCausalLM', 'none', '{}', '{}', NULL, NULL, '{}', '{"base":{"architecture":"LlamaForCausalLM","chat_template_digest":"dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd","embedding_rows":128,"revision":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","source":"hub:acme/tiny","tokenizer_digest":"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc","tokenizer_length":100,"weights_digest":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"},"config":{},"files":{"text.txt":{"sha256":"cae662172fd450bb0cd710a769079c05bfc5d8e35efa6576edc7d0377afdd4a2","size":4}},"kind":"base","metrics":{},"parents":[],"quant":{"calibration_dataset":null,"effective":{},"merge_base":null,"method":"none","requested":{},"toolchain":{}},"schema_version":1,"stage":"prepare","stage_version":1,"toolchain":{"tuneline":"0.1.0"}}');
INSERT INTO public.channel_events VALUES ('team/prod', 1, 'move', '283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb', NULL, '69346d4fc5d550258502e288e5a1f11e9bf94bbb7024bdad26e0efdc36dae6bb', NULL, NULL, '2026-11-22T06:27:33.351069+00:00', '0000000000000000000000000000000000000000000000000000000000000000', 'a900e07212055d984348bb60b8df06e3de85e75fc9b5ad4e015cbfa0074952ca');
INSERT INTO public.channel_events VALUES ('team/prod', 2, 'move', '77b15657530253a7ab12456aa04c1fee42fe25193cff9032c06b43a2e69c5a04', NULL, NULL, 'for Monday', 'ada', '2026-11-22T06:27:33.355145+00:00', 'a900e07212055d984348bb60b8df06e3de85e75fc9b5ad4e015cbfa0074952ca', '088b98c673d049d045cb2cf25ebf375f669d6c9776fdf89461af812f4b3ff60d');
INSERT INTO public.channel_events VALUES ('team/prod', 3, 'rollback', '283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb', 1, NULL, 'Monday is over', 'ada', '2026-11-22T06:27:33.358108+00:00', '088b98c673d049d045cb2cf25ebf375f669d6c9776fdf89461af812f4b3ff60d', '5bd442b47d91eb52147cde8984065d2eafc081d42e4ea4a38b0ff34f73a4d0ab');
INSERT INTO public.channel_policies VALUES (1, 'team/prod', '{"margin":0.01}', 'df8b55efe6bcfe0ded2736ac8224a1b04ca20a3ea2ac2ce1c26a4074e300089e', 'ada', 'less is not enough', '2026-11-22T06:27:33.341498+00:00');
INSERT INTO public.channels VALUES ('team/prod', '283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb', 3, '2026-11-22T06:27:33.358108+00:00');
INSERT INTO public.content_events VALUES (1, 'ffbd34f92475b9b43e50e5702b1902a064ea2f210ccf5aa644576baeb19de8dd', 'collected', 5, '2026-11-22T06:27:33.362879+00:00');
INSERT INTO public.content_events VALUES (2, 'ffbd34f92475b9b43e50e5702b1902a064ea2f210ccf5aa644576baeb19de8dd', 'restored', 5, '2026-11-22T06:27:33.363794+00:00');
INSERT INTO public.content_events VALUES (3, 'ffbd34f92475b9b43e50e5702b1902a064ea2f210ccf5aa644576baeb19de8dd', 'collected', 5, '2026-11-22T06:27:33.364132+00:00');
INSERT INTO public.edges VALUES ('ffbd34f92475b9b43e50e5702b1902a064ea2f210ccf5aa644576baeb19de8dd', 'trained_on', '283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb');
INSERT INTO public.endpoints VALUES (1, '8caf641d', '283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb', 'team/prod', 'llama.cpp', 'http://127.0.0.1:8080', 4321, 1795316929.66, 'endpoint.log', '2026-11-22T06:27:33.359136+00:00', NULL, 'Which?', 'This.', '{}');
INSERT INTO public.executions VALUES (1, '283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb', '64b31f380d4ef0c441625c87473f3c0b29c8ad8460953931b9c1a19db4025d8d', '2026-11-22T03:04:05+00:00', 1.5, 1099511627776, 'laptop 5aac86bc3f26 pid:[4026531836]');
INSERT INTO public.executions VALUES (2, '77b15657530253a7ab12456aa04c1fee42fe25193cff9032c06b43a2e69c5a04', '11c549d52d06f09bfa253320e820817feaa26a41535c83e98a64ee9fc259fb45', '2026-11-22T03:04:05+00:00', 1.5, 1099511627776, 'laptop 5aac86bc3f26 pid:[4026531836]');
INSERT INTO public.executions VALUES (3, 'ffbd34f92475b9b43e50e5702b1902a064ea2f210ccf5aa644576baeb19de8dd', 'c58ac20f87f0a3a4b315377ef7f378338e4fccf27b9f2d1814af977253779a08', '2026-11-22T03:04:05+00:00', 1.5, 1099511627776, 'laptop 5aac86bc3f26 pid:[4026531836]');
INSERT INTO public.executions VALUES (4, '7f8b01dd4e88ead012ff125b50ced6acc91db20c789a085c99b00a028f3eca07', '114c28de8cf3149b7857291f462a13b9f7e5e424de938b4854a59bc0f2fb5bf7', '2026-11-22T03:04:05+00:00', 1.5, 1099511627776, 'laptop 5aac86bc3f26 pid:[4026531836]');
INSERT INTO public.gate_decisions VALUES (1, '69346d4fc5d550258502e288e5a1f11e9bf94bbb7024bdad26e0efdc36dae6bb', '283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb', NULL, '{"margin":0.01}', 'pass', '{"items":100}', '2026-11-22T06:27:33.346742+00:00', '5ad64051d8da68e88623f4cd50b000172b99a8d55754c7884bb9de4a59cffcc8', 'MEQCICtQojeLXpNZpRcq8Gw61qos8s7Zl3qc1tDP6Qr8UD/sAiA493bfb/p0R26/FnqArcx4tvbRFKdpNaaHbZbMj9MxHw==');
INSERT INTO public.keys VALUES ('64b31f380d4ef0c441625c87473f3c0b29c8ad8460953931b9c1a19db4025d8d', '283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb', '2026-11-22T06:27:33.293931+00:00');
INSERT INTO public.keys VALUES ('11c549d52d06f09bfa253320e820817feaa26a41535c83e98a64ee9fc259fb45', '77b15657530253a7ab12456aa04c1fee42fe25193cff9032c06b43a2e69c5a04', '2026-11-22T06:27:33.308930+00:00');
INSERT INTO public.keys VALUES ('c58ac20f87f0a3a4b315377ef7f378338e4fccf27b9f2d1814af977253779a08', 'ffbd34f92475b9b43e50e5702b1902a064ea2f210ccf5aa644576baeb19de8dd', '2026-11-22T06:27:33.320835+00:00');
INSERT INTO public.keys VALUES ('114c28de8cf3149b7857291f462a13b9f7e5e424de938b4854a59bc0f2fb5bf7', '7f8b01dd4e88ead012ff125b50ced6acc91db20c789a085c99b00a028f3eca07', '2026-11-22T06:27:33.336166+00:00');
INSERT INTO public.leases VALUES ('64b31f380d4ef0c441625c87473f3c0b29c8ad8460953931b9c1a19db4025d8d', 1, 'prepare', NULL, 14297, 1795328852.01, '2026-11-22T06:27:33.282686+00:00', 1795332453.2905488, '[]');
INSERT INTO public.leases VALUES ('11c549d52d06f09bfa253320e820817feaa26a41535c83e98a64ee9fc259fb45', 1, 'prepare', NULL, 14297, 1795328852.01, '2026-11-22T06:27:33.301133+00:00', 1795332453.3071418, '[]');
INSERT INTO public.leases VALUES ('c58ac20f87f0a3a4b315377ef7f378338e4fccf27b9f2d1814af977253779a08', 1, 'prepare', NULL, 14297, 1795328852.01, '2026-11-22T06:27:33.313308+00:00', 1795332453.3189623, '[]');
INSERT INTO public.leases VALUES ('114c28de8cf3149b7857291f462a13b9f7e5e424de938b4854a59bc0f2fb5bf7', 1, 'prepare', NULL, 14297, 1795328852.01, '2026-11-22T06:27:33.329524+00:00', 1795332453.3344831, '[]');
INSERT INTO public.leases VALUES ('eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', 1, 'train', 'laptop 0123456789ab', 14297, 1795328852.01, '2026-11-22T06:27:33.364666+00:00', 1795332453.3646753, '["283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb"]');
INSERT INTO public.names VALUES (1, 'first', 1, '283fcfe5bab7db270a4d1a64f6052e76b916fb9d6ed5b055355a8f0edc6475eb');
INSERT INTO public.schema_version VALUES (1, 2);
SELECT pg_catalog.setval('public.artifacts_sequence_seq', 4, true);
SELECT pg_catalog.setval('public.channel_policies_sequence_seq', 1, true);
SELECT pg_catalog.setval('public.content_events_sequence_seq', 3, true);
SELECT pg_catalog.setval('public.endpoints_sequence_seq', 1, true);
SELECT pg_catalog.setval('public.executions_sequence_seq', 4, true);
SELECT pg_catalog.setval('public.gate_decisions_sequence_seq', 1, true);
SELECT pg_catalog.setval('public.names_sequence_seq', 1, true);
ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT artifacts_id_key UNIQUE (id);
ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT artifacts_pkey PRIMARY KEY (sequence);
ALTER TABLE ONLY public.channel_events
    ADD CONSTRAINT channel_events_digest_key UNIQUE (digest);
ALTER TABLE ONLY public.channel_events
    ADD CONSTRAINT channel_events_pkey PRIMARY KEY (channel, generation);
ALTER TABLE ONLY public.channel_policies
    ADD CONSTRAINT channel_policies_pkey PRIMARY KEY (sequence);
ALTER TABLE ONLY public.channels
    ADD CONSTRAINT channels_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.content_events
    ADD CONSTRAINT content_events_pkey PRIMARY KEY (sequence);
ALTER TABLE ONLY public.edges
    ADD CONSTRAINT edges_pkey PRIMARY KEY (child, relation, parent);
ALTER TABLE ONLY public.endpoints
    ADD CONSTRAINT endpoints_id_key UNIQUE (id);
ALTER TABLE ONLY public.endpoints
    ADD CONSTRAINT endpoints_pkey PRIMARY KEY (sequence);
ALTER TABLE ONLY public.executions
    ADD CONSTRAINT executions_pkey PRIMARY KEY (sequence);
ALTER TABLE ONLY public.gate_decisions
    ADD CONSTRAINT gate_decisions_id_key UNIQUE (id);
ALTER TABLE ONLY public.gate_decisions
    ADD CONSTRAINT gate_decisions_pkey PRIMARY KEY (sequence);
ALTER TABLE ONLY public.keys
    ADD CONSTRAINT keys_pkey PRIMARY KEY (key, artifact_id);
ALTER TABLE ONLY public.leases
    ADD CONSTRAINT leases_pkey PRIMARY KEY (key);
ALTER TABLE ONLY public.names
    ADD CONSTRAINT names_name_artifact_id_key UNIQUE (name, artifact_id);
ALTER TABLE ONLY public.names
    ADD CONSTRAINT names_name_version_key UNIQUE (name, version);
ALTER TABLE ONLY public.names
    ADD CONSTRAINT names_pkey PRIMARY KEY (sequence);
ALTER TABLE ONLY public.schema_version
    ADD CONSTRAINT schema_version_pkey PRIMARY KEY ("only");
CREATE INDEX artifacts_by_base ON public.artifacts USING btree (base_revision, sequence);
CREATE INDEX artifacts_by_kind ON public.artifacts USING btree (kind, sequence);
CREATE INDEX artifacts_by_quantization ON public.artifacts USING btree (quant_method, sequence);
CREATE INDEX artifacts_by_stage ON public.artifacts USING btree (stage, sequence);
CREATE INDEX channel_policies_by_channel ON public.channel_policies USING btree (channel, sequence);
CREATE INDEX content_events_by_artifact ON public.content_events USING btree (artifact_id, sequence);
CREATE INDEX edges_by_parent ON public.edges USING btree (parent);
CREATE INDEX ix_executions_artifact_id ON public.executions USING btree (artifact_id);
CREATE INDEX ix_gate_decisions_candidate ON public.gate_decisions USING btree (candidate);
CREATE INDEX ix_names_artifact_id ON public.names USING btree (artifact_id);
CREATE TRIGGER artifacts_no_delete BEFORE DELETE ON public.artifacts FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('artifacts is immutable');
CREATE TRIGGER artifacts_no_truncate BEFORE TRUNCATE ON public.artifacts FOR EACH STATEMENT EXECUTE FUNCTION public.tuneline_refuse('artifacts is immutable');
CREATE TRIGGER artifacts_no_update BEFORE UPDATE ON public.artifacts FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('artifacts is immutable');
CREATE TRIGGER channel_events_no_delete BEFORE DELETE ON public.channel_events FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('channel_events is immutable');
CREATE TRIGGER channel_events_no_truncate BEFORE TRUNCATE ON public.channel_events FOR EACH STATEMENT EXECUTE FUNCTION public.tuneline_refuse('channel_events is immutable');
CREATE TRIGGER channel_events_no_update BEFORE UPDATE ON public.channel_events FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('channel_events is immutable');
CREATE TRIGGER channel_policies_no_delete BEFORE DELETE ON public.channel_policies FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('channel_policies is immutable');
CREATE TRIGGER channel_policies_no_truncate BEFORE TRUNCATE ON public.channel_policies FOR EACH STATEMENT EXECUTE FUNCTION public.tuneline_refuse('channel_policies is immutable');
CREATE TRIGGER channel_policies_no_update BEFORE UPDATE ON public.channel_policies FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('channel_policies is immutable');
CREATE TRIGGER channels_no_delete BEFORE DELETE ON public.channels FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('channels are never deleted');
CREATE TRIGGER channels_no_truncate BEFORE TRUNCATE ON public.channels FOR EACH STATEMENT EXECUTE FUNCTION public.tuneline_refuse('channels are never deleted');
CREATE TRIGGER channels_step BEFORE UPDATE ON public.channels FOR EACH ROW WHEN ((((new.name)::text <> (old.name)::text) OR (new.generation <> (old.generation + 1)))) EXECUTE FUNCTION public.tuneline_refuse('a channel moves by one generation');
CREATE TRIGGER content_events_no_delete BEFORE DELETE ON public.content_events FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('content_events is immutable');
CREATE TRIGGER content_events_no_truncate BEFORE TRUNCATE ON public.content_events FOR EACH STATEMENT EXECUTE FUNCTION public.tuneline_refuse('content_events is immutable');
CREATE TRIGGER content_events_no_update BEFORE UPDATE ON public.content_events FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('content_events is immutable');
CREATE TRIGGER edges_no_delete BEFORE DELETE ON public.edges FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('edges is immutable');
CREATE TRIGGER edges_no_truncate BEFORE TRUNCATE ON public.edges FOR EACH STATEMENT EXECUTE FUNCTION public.tuneline_refuse('edges is immutable');
CREATE TRIGGER edges_no_update BEFORE UPDATE ON public.edges FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('edges is immutable');
CREATE TRIGGER edges_point_back BEFORE INSERT ON public.edges FOR EACH ROW EXECUTE FUNCTION public.tuneline_parent_is_older();
CREATE TRIGGER executions_no_delete BEFORE DELETE ON public.executions FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('executions is immutable');
CREATE TRIGGER executions_no_truncate BEFORE TRUNCATE ON public.executions FOR EACH STATEMENT EXECUTE FUNCTION public.tuneline_refuse('executions is immutable');
CREATE TRIGGER executions_no_update BEFORE UPDATE ON public.executions FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('executions is immutable');
CREATE TRIGGER gate_decisions_no_delete BEFORE DELETE ON public.gate_decisions FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('gate_decisions is immutable');
CREATE TRIGGER gate_decisions_no_truncate BEFORE TRUNCATE ON public.gate_decisions FOR EACH STATEMENT EXECUTE FUNCTION public.tuneline_refuse('gate_decisions is immutable');
CREATE TRIGGER gate_decisions_no_update BEFORE UPDATE ON public.gate_decisions FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('gate_decisions is immutable');
CREATE TRIGGER keys_no_delete BEFORE DELETE ON public.keys FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('keys is immutable');
CREATE TRIGGER keys_no_truncate BEFORE TRUNCATE ON public.keys FOR EACH STATEMENT EXECUTE FUNCTION public.tuneline_refuse('keys is immutable');
CREATE TRIGGER keys_no_update BEFORE UPDATE ON public.keys FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('keys is immutable');
CREATE TRIGGER names_no_delete BEFORE DELETE ON public.names FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('names is immutable');
CREATE TRIGGER names_no_truncate BEFORE TRUNCATE ON public.names FOR EACH STATEMENT EXECUTE FUNCTION public.tuneline_refuse('names is immutable');
CREATE TRIGGER names_no_update BEFORE UPDATE ON public.names FOR EACH ROW EXECUTE FUNCTION public.tuneline_refuse('names is immutable');
ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT artifacts_quant_calibration_dataset_fkey FOREIGN KEY (quant_calibration_dataset) REFERENCES public.artifacts(id);
ALTER TABLE ONLY public.channel_events
    ADD CONSTRAINT channel_events_artifact_id_fkey FOREIGN KEY (artifact_id) REFERENCES public.artifacts(id);
ALTER TABLE ONLY public.channel_events
    ADD CONSTRAINT channel_events_decision_id_fkey FOREIGN KEY (decision_id) REFERENCES public.gate_decisions(id);
ALTER TABLE ONLY public.channels
    ADD CONSTRAINT channels_artifact_id_fkey FOREIGN KEY (artifact_id) REFERENCES public.artifacts(id);
ALTER TABLE ONLY public.content_events
    ADD CONSTRAINT content_events_artifact_id_fkey FOREIGN KEY (artifact_id) REFERENCES public.artifacts(id);
ALTER TABLE ONLY public.edges
    ADD CONSTRAINT edges_child_fkey FOREIGN KEY (child) REFERENCES public.artifacts(id);
ALTER TABLE ONLY public.edges
    ADD CONSTRAINT edges_parent_fkey FOREIGN KEY (parent) REFERENCES public.artifacts(id);
ALTER TABLE ONLY public.endpoints
    ADD CONSTRAINT endpoints_artifact_id_fkey FOREIGN KEY (artifact_id) REFERENCES public.artifacts(id);
ALTER TABLE ONLY public.executions
    ADD CONSTRAINT executions_artifact_id_fkey FOREIGN KEY (artifact_id) REFERENCES public.artifacts(id);
ALTER TABLE ONLY public.gate_decisions
    ADD CONSTRAINT gate_decisions_baseline_fkey FOREIGN KEY (baseline) REFERENCES public.artifacts(id);
ALTER TABLE ONLY public.gate_decisions
    ADD CONSTRAINT gate_decisions_candidate_fkey FOREIGN KEY (candidate) REFERENCES public.artifacts(id);
ALTER TABLE ONLY public.keys
    ADD CONSTRAINT keys_artifact_id_fkey FOREIGN KEY (artifact_id) REFERENCES public.artifacts(id);
ALTER TABLE ONLY public.names
    ADD CONSTRAINT names_artifact_id_fkey FOREIGN KEY (artifact_id) REFERENCES public.artifacts(id);
