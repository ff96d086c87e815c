//! The scenarios that come with the program: `conf/scenarios/*.toml`, embedded, so that the binary needs no files.

use super::file::ScenarioFile;

/// Name and text of one file.
macro_rules! embedded {
    ($name:literal) => {
        ($name, include_str!(concat!("../../conf/scenarios/", $name, ".toml")))
    };
}

/// Every embedded scenario, in the order of the documentation: s01 to s24, then token streams t1 to t11.
pub const EMBEDDED: [(&str, &str); 36] = [
    embedded!("s01_homog70"),
    embedded!("s02_homog90"),
    embedded!("s03_hetero_speed"),
    embedded!("s04_hetero_slots"),
    embedded!("s05_flash10x"),
    embedded!("s06_crash"),
    embedded!("s07_hang"),
    embedded!("s08_blackhole"),
    embedded!("s09_partial_err"),
    embedded!("s10_leak"),
    embedded!("s11_noisy"),
    embedded!("s12_heavytail"),
    embedded!("s13_llm"),
    embedded!("s14_autoscale"),
    embedded!("s15_4lb_hetero"),
    embedded!("s16_gcpause"),
    embedded!("s17_10krps"),
    embedded!("s18_n3"),
    embedded!("s19_n12_4lb"),
    embedded!("s20_n50_4lb"),
    embedded!("s21_burst85"),
    embedded!("s22_slowerr"),
    embedded!("s23_lowload_recover"),
    embedded!("s24_slow_recover"),
    embedded!("s24_slow_recover_200"),
    embedded!("t1_homog70"),
    embedded!("t2_homog90"),
    embedded!("t3_hetero75"),
    embedded!("t4_prefillmix"),
    embedded!("t5_slowdown"),
    embedded!("t6_short"),
    embedded!("t7_long_prompts"),
    embedded!("t8_4lb"),
    embedded!("t9_slow_decode"),
    embedded!("t10_slow_prefill"),
    embedded!("t11_errors"),
];

/// The embedded scenario of that name, or the only one whose name begins so (`s06`, `t1`).
///
/// # Errors
/// There is none, or there are several.
pub fn find(name: &str) -> Result<ScenarioFile, String> {
    let matches = |embedded: &&(&str, &str)| {
        embedded.0 == name || embedded.0.strip_prefix(name).is_some_and(|rest| rest.starts_with('_'))
    };
    let found: Vec<_> = EMBEDDED.iter().filter(matches).collect();
    let exact = found.iter().find(|embedded| embedded.0 == name).or(found.first());
    match exact {
        Some((_, text)) => ScenarioFile::parse(text),
        None => Err(format!("there is no scenario {name:?}, and no such file")),
    }
}

/// The text of an embedded scenario.
///
/// # Errors
/// There is none of that name.
pub fn text(name: &str) -> Result<&'static str, String> {
    let found = EMBEDDED.iter().find(|embedded| embedded.0 == name);
    found.map(|embedded| embedded.1).ok_or_else(|| format!("there is no scenario {name:?}"))
}

/// The names of the fixed suite (`s…`) or of the token streams (`t…`).
pub fn names(first: char) -> impl Iterator<Item = &'static str> {
    EMBEDDED.iter().map(|(name, _)| *name).filter(move |name| name.starts_with(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_parses_builds_and_has_the_name_of_its_file() {
        for (name, text) in EMBEDDED {
            let file = ScenarioFile::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(file.name, name);
            assert!(!file.about.is_empty(), "{name} says what it is about");
            let scenario = file.build(1, &|_| Err("no trace".into())).unwrap();
            assert!(scenario.arrivals.len() > 1000, "{name}: {}", scenario.arrivals.len());
        }
        assert_eq!(names('s').count(), 25);
        assert_eq!(names('t').count(), 11);
    }

    #[test]
    fn every_file_of_the_folder_is_embedded() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/scenarios");
        let files = std::fs::read_dir(folder).unwrap().count();
        assert_eq!(files, EMBEDDED.len());
    }

    #[test]
    fn a_short_name_is_enough() {
        assert_eq!(find("s06").unwrap().name, "s06_crash");
        assert_eq!(find("s24").unwrap().name, "s24_slow_recover");
        assert_eq!(find("t1").unwrap().name, "t1_homog70");
        assert!(find("s99").is_err());
    }

    #[test]
    fn a_scenario_is_the_same_for_the_same_seed() {
        let build = |seed| find("s21").unwrap().build(seed, &|_| Err("no trace".into())).unwrap();
        assert_eq!(build(3), build(3));
        assert_ne!(build(3).arrivals, build(4).arrivals);
    }
}
