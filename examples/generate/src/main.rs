//! `generate`: text from a Llama model whose cache and attention are Tersa's.

#![allow(clippy::print_stdout, reason = "a command line")]

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Parser;
use generate::attention::Select;
use generate::model::{Config, Llama};
use generate::session::{Resumed, Session};
use generate::tokenizer;
use tersa_core::kv::{Extent, Preset};

/// Continues a text with the likeliest tokens, attending to all of it or to what Tersa selects.
///
/// The text goes to stdout, what there is to say about it to stderr. RAYON_NUM_THREADS sets the count of threads.
#[derive(Parser)]
struct Args {
    /// The model: a GGUF file of a Llama, such as the one `cargo xtask generate` downloads
    #[arg(long)]
    model: PathBuf,
    /// The text to continue
    #[arg(long, conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// A file with the text to continue
    #[arg(long)]
    prompt_file: Option<PathBuf>,
    /// Take no more than so many tokens of the prompt
    #[arg(long)]
    prompt_tokens: Option<usize>,
    /// What to attend to: `dense`, `default`, `paper` (2 x 6 bits), or any preset of tersa
    #[arg(long, default_value = "dense")]
    select: String,
    /// Share of the tokens that are selected, 1 for all [default: the preset's]
    #[arg(long)]
    budget: Option<f64>,
    /// Tokens to generate
    #[arg(short, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,
    /// Go on where the text would end
    #[arg(long)]
    ignore_eos: bool,
    /// Save the session to this `.tersa` file
    #[arg(long)]
    save: Option<PathBuf>,
    /// Codec of the saved keys and values, as `tersa compress` names them
    #[arg(long, default_value = "lossless")]
    codec: String,
    /// Go on with the session in this `.tersa` file
    #[arg(long)]
    resume: Option<PathBuf>,
    /// Print a report as JSON instead of the text
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let model = Llama::open(&args.model)?;
    let config = &model.config;
    let select = selection(&args, config)?;

    let text = match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => text.clone(),
        (_, Some(path)) => fs::read_to_string(path).with_context(|| path.display().to_string())?,
        _ => String::new(),
    };
    let mut prompt = tokenizer::encode(&model.tokenizer, &text)?;
    prompt.truncate(args.prompt_tokens.unwrap_or(usize::MAX));
    let n = args.n as usize;
    let mut session = match &args.resume {
        None => Session::new(config, &select, prompt.len() + n)?,
        Some(path) => {
            let Resumed { session, next, reindexed } =
                Session::resume(path, config, &select, prompt.len() + n)?;
            if reindexed {
                eprintln!("{}: has no indexes of this kind; the keys were indexed anew", path.display());
            }
            prompt.splice(0..0, next);
            session
        }
    };
    ensure!(!prompt.is_empty(), "nothing to go on with: give --prompt, --prompt-file or --resume");
    let longest = session.len() + prompt.len() + n;
    if longest > config.context {
        eprintln!("{longest} tokens: the model was trained for {}", config.context);
    }

    let mut words = model.tokenizer.decode_stream(false);
    let done = model.generate(&mut session, &prompt, n, |token| {
        let ends = token == config.eos && !args.ignore_eos;
        if !args.json && !ends {
            print!("{}", words.step(token).map_err(|e| anyhow!(e))?.unwrap_or_default());
            io::stdout().flush()?;
        }
        Ok(!ends)
    })?;
    if let Some(path) = &args.save {
        session.save(path, &args.codec, done.tokens.last().copied())?;
    }
    let steps = done.tokens.len() - 1;
    #[allow(clippy::cast_precision_loss, reason = "small counts")]
    let rate = |n: usize, seconds: f64| n as f64 / seconds;
    let prompt_rate = rate(prompt.len(), done.prompt.as_secs_f64());
    let step_rate = rate(steps, done.steps.as_secs_f64());
    if args.json {
        let report = serde_json::json!({
            "select": args.select,
            "budget": args.budget,
            "prompt_tokens": prompt.len(),
            "context_tokens": session.len(),
            "tokens": done.tokens,
            "text": tokenizer::decode(&model.tokenizer, &done.tokens)?,
            "prompt_seconds": done.prompt.as_secs_f64(),
            "step_seconds": done.steps.as_secs_f64(),
            "tokens_per_second": if steps > 0 { Some(step_rate) } else { None },
        });
        println!("{report}");
    } else {
        println!();
        eprintln!(
            "{} tokens of prompt at {prompt_rate:.0}/s, {steps} further at {step_rate:.1}/s",
            prompt.len()
        );
    }
    Ok(())
}

/// What `--select` and `--budget` ask for.
fn selection(args: &Args, config: &Config) -> Result<Select> {
    let name = match args.select.as_str() {
        "dense" if args.budget.is_some() => {
            bail!("--budget goes with a preset, and dense attention has none")
        }
        "dense" => return Ok(Select::Dense),
        "paper" => Preset::PaperLongBench.name(),
        name => name,
    };
    let Some(preset) = Preset::from_name(name) else {
        bail!("no preset is called {name}: {}", Preset::ALL.map(Preset::name).join(", "));
    };
    let mut kept = preset.config(config.head_dim)?;
    if let Some(share) = args.budget {
        kept.budget = match kept.budget {
            Extent::OfPrompt(_) => Extent::OfPrompt(share),
            _ => Extent::OfContext(share),
        };
    }
    kept.check()?;
    Ok(Select::Preset(kept))
}
