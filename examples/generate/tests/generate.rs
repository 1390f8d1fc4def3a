//! The generator on the real model. `cargo xtask generate` downloads it and runs these; `TERSA_GENERATE_MODEL` names it.

#![allow(clippy::unwrap_used, reason = "a test that cannot run has failed")]

use std::path::PathBuf;
use std::sync::LazyLock;

use generate::attention::Select;
use generate::model::Llama;
use generate::session::{Resumed, Session};
use generate::tokenizer;
use serde::Deserialize;
use tersa_core::kv::{Extent, PqConfig, Preset};

static MODEL: LazyLock<Llama> = LazyLock::new(|| {
    let path = std::env::var_os("TERSA_GENERATE_MODEL").expect("TERSA_GENERATE_MODEL names the model's file");
    Llama::open(&PathBuf::from(path)).expect("the model can be read")
});

/// What llama.cpp says, recorded by `expected.py`, or just now by `cargo xtask generate --llama`.
#[derive(Deserialize)]
struct Expected {
    name: String,
    prompt: String,
    prompt_tokens: Vec<u32>,
    tokens: Vec<u32>,
    margins: Vec<f32>,
}

fn expected() -> Vec<Expected> {
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/expected.json").into();
    let path = std::env::var_os("TERSA_GENERATE_EXPECTED").unwrap_or(recorded);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A text long enough that presets have something to select from.
fn long_prompt() -> Vec<u32> {
    let mut tokens = tokenizer::encode(&MODEL.tokenizer, include_str!("long.txt")).unwrap();
    tokens.truncate(200);
    tokens
}

fn session(select: &Select) -> Session {
    Session::new(&MODEL.config, select, 1024).unwrap()
}

fn generate(session: &mut Session, prompt: &[u32], n: usize) -> Vec<u32> {
    MODEL.generate(session, prompt, n, |_| Ok(true)).unwrap().tokens
}

fn preset(preset: Preset, share: f64) -> PqConfig {
    let config = preset.config(MODEL.config.head_dim).unwrap();
    PqConfig { sinks: 4, window: Extent::Tokens(16), budget: Extent::OfContext(share), ..config }
}

#[test]
#[ignore = "needs the model: cargo xtask generate"]
fn the_tokenizer_is_that_of_llama_cpp() {
    for case in expected() {
        assert_eq!(
            tokenizer::encode(&MODEL.tokenizer, &case.prompt).unwrap(),
            case.prompt_tokens,
            "{}",
            case.name
        );
        assert_eq!(tokenizer::decode(&MODEL.tokenizer, &case.prompt_tokens).unwrap(), case.prompt);
    }
}

/// Both programs round activations to 8 bits before they multiply, so that another order of summation, or weights in `q8_0`
/// instead of `q4_1`, move single logits by up to 0.6 of this model. Where the two likeliest tokens are closer than `NOISE`
/// either may win, and all later tokens are of another text; so each text is compared up to there.
const NOISE: f32 = 0.9;

#[test]
#[ignore = "needs the model: cargo xtask generate"]
fn dense_text_is_that_of_llama_cpp_while_the_choice_is_clear() {
    let mut compared = 0;
    for case in expected() {
        let clear = case.margins.iter().position(|m| *m < NOISE).unwrap_or(case.margins.len());
        let tokens = generate(&mut session(&Select::Dense), &case.prompt_tokens, case.tokens.len());
        let same = tokens.iter().zip(&case.tokens).take_while(|(a, b)| a == b).count();
        println!("{}: {same} of {} tokens agree, {clear} are asked to", case.name, case.tokens.len());
        assert!(same >= clear, "{}: {tokens:?}", case.name);
        compared += clear;
    }
    assert!(compared >= 70, "{compared}");
}

#[test]
#[ignore = "needs the model: cargo xtask generate"]
fn selecting_everything_is_dense() {
    let prompt = long_prompt();
    let dense = generate(&mut session(&Select::Dense), &prompt, 24);
    for name in [Preset::Default, Preset::PaperLongBench] {
        let all = Select::Preset(preset(name, 1.0));
        assert_eq!(generate(&mut session(&all), &prompt, 24), dense, "{}", name.name());
    }
}

#[test]
#[ignore = "needs the model: cargo xtask generate"]
fn a_resumed_session_goes_on_as_if_it_had_not_been_saved() {
    let dir = tempfile::tempdir().unwrap();
    let prompt = long_prompt();
    let selects = [
        Select::Dense,
        Select::Preset(preset(Preset::Default, 0.1)),
        Select::Preset(preset(Preset::PaperLongBench, 0.1)),
    ];
    for (i, select) in selects.iter().enumerate() {
        let whole = generate(&mut session(select), &prompt, 20);
        let mut first = session(select);
        let half = generate(&mut first, &prompt, 10);
        let path = dir.path().join(format!("{i}.tersa"));
        first.save(&path, "lossless", half.last().copied()).unwrap();
        drop(first);
        let Resumed { mut session, next, reindexed } =
            Session::resume(&path, &MODEL.config, select, 32).unwrap();
        assert!(!reindexed);
        assert_eq!(session.len(), prompt.len() + 9);
        let rest = generate(&mut session, &[next.unwrap()], 10);
        assert_eq!([half, rest].concat(), whole, "{select:?}");
    }
}

#[test]
#[ignore = "needs the model: cargo xtask generate"]
fn a_session_can_be_resumed_in_another_way_and_from_lossy_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.tersa");
    let prompt = long_prompt();
    let mut dense = session(&Select::Dense);
    let half = generate(&mut dense, &prompt, 4);
    for codec in ["lossless", "had+lm8"] {
        dense.save(&path, codec, half.last().copied()).unwrap();
        let select = Select::Preset(preset(Preset::Default, 1.0));
        let Resumed { mut session, next, reindexed } =
            Session::resume(&path, &MODEL.config, &select, 32).unwrap();
        assert!(reindexed, "a dense session has no indexes");
        assert_eq!(next, half.last().copied());
        assert_eq!(generate(&mut session, &[next.unwrap()], 4).len(), 4);
    }
    let other = generate::model::Config { n_kv_heads: 1, ..MODEL.config.clone() };
    let error = Session::resume(&path, &other, &Select::Dense, 0).unwrap_err();
    assert!(format!("{error:#}").contains("another model"), "{error:#}");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(Session::resume(&path, &MODEL.config, &Select::Dense, 0).is_err());
}
