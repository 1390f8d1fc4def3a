//! `eval --select` from outside, on the shipped dump of a real model.

#![allow(clippy::unwrap_used, reason = "a test that cannot run has failed")]

mod run;

use run::{run, with_sample};
use serde_json::Value;

fn evaluated(args: &str) -> Value {
    let dir = with_sample();
    let out = run(dir.path(), &format!("eval kv.safetensors --json {args}"), 0);
    serde_json::from_slice(&out.stdout).unwrap()
}

fn number(report: &Value, selector: &str, budget: f64, sets: &str, what: &str) -> f64 {
    let rows = report["rows"].as_array().unwrap();
    let row = rows.iter().find(|r| r["selector"] == selector && r["budget"] == budget);
    row.unwrap_or_else(|| panic!("{selector} {budget}"))[sets][what].as_f64().unwrap()
}

#[test]
fn peers_lose_what_another_implementation_says() {
    // Mass, error and its 95th percentile at k = N/5 and N/32, one set for each query head, by a numpy program that
    // shares nothing with ours.
    let known = [
        ("exact", [0.9698, 0.0340, 0.147], [0.8854, 0.1164, 0.429]),
        ("exact-v", [0.9685, 0.0326, 0.138], [0.8818, 0.1164, 0.423]),
        ("sparq:8", [0.9563, 0.0511, 0.208], [0.8639, 0.1439, 0.510]),
        ("sparq:16", [0.9644, 0.0410, 0.173], [0.8772, 0.1266, 0.454]),
        ("snapkv", [0.8868, 0.1182, 0.418], [0.7572, 0.2289, 0.773]),
        ("recent", [0.7552, 0.2764, 1.126], [0.6885, 0.3347, 1.137]),
        ("quest:16", [0.8754, 0.1174, 0.436], [0.7143, 0.2637, 0.827]),
        ("random", [0.7360, 0.2348, 0.737], [0.6726, 0.3463, 1.113]),
    ];
    let report = evaluated("--select all --budget 0.2,0.03125");
    for (selector, fifth, thirty_second) in known {
        // Neither random choices nor the neighbours of SnapKV's pools at the edges are the same.
        let slack = match selector {
            "random" => 0.04,
            "snapkv" => 0.01,
            _ => 0.003,
        };
        for (budget, values) in [(0.2, fifth), (0.03125, thirty_second)] {
            for (what, value) in ["mass", "error", "error_p95"].into_iter().zip(values) {
                let got = number(&report, selector, budget, "per_query_head", what);
                assert!(
                    (got - value).abs() <= slack * value + 0.0006,
                    "{selector} {budget} {what}: {got} {value}"
                );
            }
        }
    }
}

#[test]
fn a_report_says_what_was_measured() {
    let report = evaluated("--select exact,quest:32 --budget 0.1 --layers 6,26 --last-queries 10 --sinks 8");
    assert_eq!(report["layers"], serde_json::json!([6, 26]));
    assert_eq!((&report["n_tokens"], &report["last_queries"]), (&1024.into(), &10.into()));
    assert_eq!((&report["sinks"], &report["recent"]), (&8.into(), &64.into()));
    assert_eq!(report["group_rule"], "softmax-sum");
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    let quest = &rows[1];
    assert_eq!((&quest["selector"], &quest["k"]), (&"quest:32".into(), &102.into()));
    // Highest and lowest of 64 channels in 16 bits, for 32 tokens.
    assert_eq!(quest["index_bits"], 64.0);
    assert_eq!(quest["outputs"], 2 * 9 * 10);
    assert_eq!(quest["layers"][1]["layer"], 26);
    for sets in ["shared", "per_query_head"] {
        assert_eq!(number(&report, "exact", 0.1, sets, "recall"), 1.0);
        for what in ["recall", "mass", "error", "error_p95"] {
            assert!((0.0..1.5).contains(&number(&report, "quest:32", 0.1, sets, what)));
        }
    }
}

#[test]
fn one_set_for_a_group_costs_something_and_everything_costs_nothing() {
    let report = evaluated("--select exact,recent --budget 1,0.05");
    for sets in ["shared", "per_query_head"] {
        assert!(number(&report, "recent", 1.0, sets, "error_p95") < 1e-5);
        assert!(number(&report, "recent", 1.0, sets, "mass") > 0.9999);
    }
    let error = |sets| number(&report, "exact", 0.05, sets, "error");
    assert!(error("shared") > 1.02 * error("per_query_head"));
}

#[test]
fn threads_do_not_change_a_report() {
    let all = |jobs| evaluated(&format!("--select all --budget 0.1 --layers 1,16 -j {jobs}"));
    assert_eq!(all(1), all(3));
}

#[test]
fn group_rules_and_windows_are_heeded() {
    let of = |more: &str| {
        number(
            &evaluated(&format!("--select exact --budget 0.05 --layers 6 {more}")),
            "exact",
            0.05,
            "shared",
            "error",
        )
    };
    let rules = ["softmax-sum", "max", "logit-sum"].map(|rule| of(&format!("--group-rule {rule}")));
    assert!(rules[0] != rules[1] && rules[1] != rules[2], "{rules:?}");
    // A query that sees no more than what it always attends loses nothing.
    assert!(of("--window 64") < 1e-6);
    assert!(of("--window 200") > 1e-4);
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let dir = with_sample();
    let refused = |args: &str, code: i32| {
        let output = run::tersa(dir.path()).args(args.split(' ')).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args}");
        String::from_utf8(output.stderr).unwrap()
    };
    let unknown = refused("eval kv.safetensors --select qwest", 2);
    assert!(
        unknown.contains("qwest") && unknown.contains("quest[:PAGE]") && unknown.contains("snapkv"),
        "{unknown}"
    );
    for budget in ["0", "1.5", "-1", "ten", "0.1,"] {
        let talk = refused(&format!("eval kv.safetensors --select exact --budget={budget}"), 2);
        assert!(talk.contains("fraction"), "{talk}");
    }
    // Neither a comparison with a file nor a choice.
    refused("eval kv.safetensors", 2);
    refused("eval kv.safetensors --select exact --against kv.safetensors", 2);
    refused("eval kv.safetensors --against kv.safetensors --sinks 3", 2);
    refused("eval kv.safetensors --select exact --recent 0", 2);
    assert!(refused("eval kv.safetensors --select exact --layers 2", 2).contains("no layer"));
    // All captured queries are tested, so none is left to learn from.
    let talk = refused("eval kv.safetensors --select snapkv --last-queries 128", 1);
    assert!(talk.contains("snapkv: left out") && talk.contains("--last-queries"), "{talk}");
    let out = run(dir.path(), "eval kv.safetensors --select snapkv,exact --last-queries 128", 0);
    assert!(!String::from_utf8(out.stdout).unwrap().contains("snapkv"));

    run(dir.path(), "compress kv.safetensors -o raw.tersa --codec raw", 0);
    run(dir.path(), "decompress raw.tersa --to npz -o kv.npz", 0);
    assert!(refused("eval kv.npz --select exact", 2).contains("--queries"));
    run(dir.path(), "eval kv.npz --select exact --queries kv.safetensors", 0);
}

#[test]
fn a_plot_has_a_line_for_each_selector() {
    let dir = with_sample();
    let out =
        run(dir.path(), "eval kv.safetensors --select exact,quest,random --layers 6 --plot loss.svg", 0);
    let table = String::from_utf8(out.stdout).unwrap();
    assert_eq!(table.matches("quest:16").count(), 4, "{table}");
    let drawn = std::fs::read_to_string(dir.path().join("loss.svg")).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.ends_with("</svg>\n"));
    for name in ["exact", "quest:16", "random"] {
        assert!(drawn.contains(&format!(">{name}</text>")), "{name}");
    }
}

#[test]
fn product_quantization_loses_what_is_known_of_it() {
    // Error at k = N/5, N/10 and N/32, one set for each query head, by faiss with as many bits; ours is trained on the
    // middle alone.
    let known = [
        ("pq:2x6", 12.0, [0.0549, 0.0918, 0.1588]),
        ("pq:4x8", 32.0, [0.0421, 0.0735, 0.1327]),
        ("pq:8x8", 64.0, [0.0385, 0.0682, 0.1262]),
        ("pq:16x4", 64.0, [0.0444, 0.0789, 0.1444]),
    ];
    let names: Vec<&str> = known.iter().map(|k| k.0).collect();
    let report = evaluated(&format!("--select {} --budget 0.2,0.1,0.03125", names.join(",")));
    for (selector, bits, errors) in known {
        for (budget, error) in [0.2, 0.1, 0.03125].into_iter().zip(errors) {
            let got = number(&report, selector, budget, "per_query_head", "error");
            assert!((got / error - 1.0).abs() < 0.06, "{selector} {budget}: {got} {error}");
            let rows = report["rows"].as_array().unwrap();
            assert_eq!(rows.iter().find(|r| r["selector"] == selector).unwrap()["index_bits"], bits);
        }
    }
}

#[test]
fn presets_come_in_the_order_of_their_bits_and_the_default_closes_most_of_the_gap() {
    let report =
        evaluated("--select exact,paper-longbench,paper-infinitebench,default --budget 0.2,0.1,0.03");
    for budget in [0.2, 0.1, 0.03] {
        let error = |selector| number(&report, selector, budget, "shared", "error");
        let (exact, plain, more, ours) =
            (error("exact"), error("paper-longbench"), error("paper-infinitebench"), error("default"));
        assert!(exact < ours && ours < more && more < plain, "{budget}: {exact} {ours} {more} {plain}");
        assert!(plain - ours > 0.6 * (plain - exact), "{budget}: {exact} {ours} {plain}");
    }
}

#[test]
fn a_second_level_finds_more() {
    let report = evaluated("--select pq:16x4,pq:16x4+r2,pq:16x4+r4 --budget 0.03");
    let recall = |selector| number(&report, selector, 0.03, "shared", "recall");
    assert!(recall("pq:16x4") + 0.1 < recall("pq:16x4+r2"));
    assert!(recall("pq:16x4+r2") <= recall("pq:16x4+r4"));
}

#[test]
fn an_index_follows_a_sliding_window() {
    // Of 100 tokens that are seen, 68 are always attended; with a budget for the rest nothing is lost.
    let report = evaluated("--select default,exact --budget 1 --window 100 --layers 16");
    for selector in ["default", "exact"] {
        assert!(number(&report, selector, 1.0, "shared", "error_p95") < 1e-5);
    }
    // Fewer middle tokens than centroids are no reason to fail.
    let report = evaluated("--select paper-longbench --budget 0.1 --window 90 --layers 16");
    assert!(number(&report, "paper-longbench", 0.1, "shared", "mass") > 0.5);
}

#[test]
fn an_index_that_is_built_anew_as_tokens_come_finds_what_a_fresh_one_finds() {
    let recall = |args: &str| {
        let report = evaluated(&format!("--select default --budget 0.1,0.02 {args}"));
        let row = &report["rows"][0];
        let recall = [0.1, 0.02].map(|budget| number(&report, "default", budget, "shared", "recall"));
        (recall, row["builds"].as_u64().unwrap(), row["build_us_per_token"].as_f64().unwrap())
    };
    let (fresh, builds, _) = recall("--seed 1");
    assert_eq!(builds, 0);
    // 12 heads. The prompt's index has 445 keys, the last query's 956; one of a few hundred is built anew after 64 more.
    let (kept, builds, cost) = recall("--prefill 512");
    assert!(builds == 12 * 7 && cost > 0.0, "{builds}");
    assert!(kept.iter().zip(fresh).all(|(kept, fresh)| *kept > 0.97 * fresh), "{kept:?} {fresh:?}");
    let (stale, builds, _) = recall("--prefill 512 --refresh never");
    assert_eq!(builds, 0);
    assert!(stale.iter().zip(fresh).all(|(stale, fresh)| *stale < 0.95 * fresh), "{stale:?} {fresh:?}");
    let dir = with_sample();
    let out = run(dir.path(), "eval kv.safetensors --select exact,default --prefill 512 --layers 6", 0);
    let table = String::from_utf8(out.stdout).unwrap();
    assert!(table.contains("default: trained on 512 tokens, then 7.0 times anew"), "{table}");
    let out = run(dir.path(), "eval kv.safetensors --select default --prefill 961 --layers 6", 1);
    assert!(String::from_utf8(out.stderr).unwrap().contains("at most 960"));
}

#[test]
fn decode_steps_are_timed_beside_dense_attention() {
    let dir = with_sample();
    let bench = |args: &str| -> Value {
        let args = format!("bench select kv.safetensors --json --seconds 0.01 {args}");
        serde_json::from_slice(&run(dir.path(), &args, 0).stdout).unwrap()
    };
    let report = bench("--select paper-longbench,pq:16x4 --budget 0.2,0.05 --plot step.svg --layers 1,6");
    assert_eq!((&report["heads"], &report["group"], &report["head_dim"]), (&6.into(), &3.into(), &64.into()));
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    for row in rows {
        let number = |what: &str| row[what].as_f64().unwrap();
        assert_eq!(row["context"], 1024);
        for what in ["tables_us", "scan_us", "attend_us", "step_us", "dense_us"] {
            assert!(number(what) > 0.0, "{what}: {row}");
        }
        assert!(number("choose_us") >= 0.0 && number("spread") >= 0.0);
        assert!(number("tables_us") + number("attend_us") < 1.5 * number("step_us"), "{row}");
        let ratio = number("speedup") * number("step_us") / number("dense_us");
        assert!((ratio - 1.0).abs() < 1e-9);
    }
    assert_eq!(rows[3]["k"], 51);
    assert_eq!(report["indexes"][1]["index_bits"], 64.0);
    let drawn = std::fs::read_to_string(dir.path().join("step.svg")).unwrap();
    assert!(drawn.contains(">dense</text>") && drawn.contains(">pq:16x4 0.05</text>"));

    let report = bench("--synthetic 3000 --contexts 3000,200 --layers 6 --select default --budget 0.1");
    let contexts: Vec<u64> =
        report["rows"].as_array().unwrap().iter().map(|r| r["context"].as_u64().unwrap()).collect();
    assert_eq!((contexts, &report["drawn"]), (vec![3000, 200], &true.into()));

    let table = run(dir.path(), "bench select kv.safetensors --layers 6 --seconds 0.01", 0).stdout;
    let table = String::from_utf8(table).unwrap();
    assert!(table.contains("1024 tokens: dense") && table.contains("74.4 bits a key"), "{table}");
}

#[test]
fn what_cannot_be_timed_is_refused() {
    let dir = with_sample();
    let refused = |args: &str| {
        let output = run(dir.path(), &format!("bench select kv.safetensors {args}"), 2);
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused("--select quest").contains("quest:16 has no index"));
    assert!(refused("--contexts 4096").contains("--synthetic 4096"));
    assert!(refused("--contexts 60").contains("nothing to choose"));
    assert!(refused("--layers 2").contains("no layer"));
}
