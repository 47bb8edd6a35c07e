//! Schedules, LARC and the rules of `[optimizer]` against NumPy (`tests/golden/recipe/make.py`), on the CPU and,
//! where there is a driver, through wgpu.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value;
use tutornet::device::DeviceChoice;
use tutornet::kernels::larc;
use tutornet::models::jasper::Jasper;
use tutornet::models::parameters;
use tutornet::train::optimizer::{NamedGradients, Optimizer};
use tutornet::train::recipe::{self, Schedule};

use crate::harness::not_run;

/// Named as a layer's tensors are, so that the L2 term finds the first two.
#[derive(Module, Debug)]
struct Toy {
    weight: Param<Tensor<2>>,
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn flat(value: &Value) -> TensorData {
    let values: Vec<f32> = numbers(value).iter().map(|&v| v as f32).collect();
    let length = values.len();
    TensorData::new(values, [length])
}

/// What `tests/golden/recipe/make.py` computed with NumPy in f64.
fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/recipe/recipe.json")).unwrap()
}

/// ||ours - expected|| / ||expected||
fn off(ours: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(ours.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut ours.iter().zip(expected).map(|(a, b)| f64::from(*a) - b));
    let size = norm(&mut expected.iter().copied());
    if size > 0.0 { difference / size } else { difference }
}

/// Twenty updates as the trainer takes them: gradients by name, L2 term, norm, clipping, rule.
fn rules_follow_numpy(device: &Device, most: f64) {
    let golden = golden();
    let device = device.clone().autodiff();
    for run in golden["runs"].as_array().unwrap() {
        let (title, s) = (run["title"].as_str().unwrap(), &run["settings"]);
        let number = |key: &str| s[key].as_f64().unwrap();
        let settings = recipe::Optimizer {
            name: serde_json::from_value(s["name"].clone()).unwrap(),
            learning_rate: number("learning_rate"),
            weight_decay: number("weight_decay"),
            l2: number("l2"),
            beta1: Some(number("beta1")),
            beta2: Some(number("beta2")),
            epsilon: number("epsilon"),
            schedule: Schedule { power: number("power"), min: number("min"), ..Schedule::default() },
            gradient_clip: number("gradient_clip"),
            larc: number("larc"),
            accumulate: 1,
        };
        settings.check("optimizer").unwrap();
        let tensor = |name: &str| Tensor::<1>::from_data(flat(&golden["initial"][name]), &device);
        let mut toy = Toy {
            weight: Param::from_tensor(tensor("weight").reshape([4, 3])),
            gamma: Param::from_tensor(tensor("gamma")),
            beta: Param::from_tensor(tensor("beta")),
        };
        let mut optimizer = Optimizer::new(&settings);
        let mut worst = 0f64;
        let steps = golden["gradients"]["weight"].as_array().unwrap().len();
        assert_eq!(steps, 20);
        for step in 0..steps {
            // The gradient of sum(w * g) is g.
            let along = |name: &str| Tensor::<1>::from_data(flat(&golden["gradients"][name][step]), &device);
            let loss = (toy.weight.val() * along("weight").reshape([4, 3])).sum()
                + (toy.gamma.val() * along("gamma")).sum()
                + (toy.beta.val() * along("beta")).sum();
            let graph = loss.backward();
            let mut gradients = NamedGradients::default();
            parameters::map(toy.clone(), &mut gradients.collector(&graph, ""));
            gradients.batch_done();
            gradients.average();
            parameters::map(toy.clone(), &mut gradients.regulariser(settings.l2, Jasper::regularised));
            gradients.clip(gradients.norm(), settings.gradient_clip);
            let rate = settings.schedule.at(settings.learning_rate, step as u64, steps as u64);
            optimizer.begin_step();
            toy = parameters::map(toy, &mut optimizer.stepper(&mut gradients, rate, ""));
            let Some(expected) = run["weights"].get((step + 1).to_string()) else { continue };
            for (name, ours) in parameters::export(&toy).unwrap() {
                let off = off(&ours.values, &numbers(&expected[&name]));
                assert!(off < most, "{title}: {name} is {off:e} off after step {}", step + 1);
                worst = worst.max(off);
            }
        }
        println!("{title}: {worst:.1e}");
    }
}

fn larc_follows_numpy(device: &Device, most: f64) {
    let mut clipped = 0;
    for case in golden()["larc"].as_array().unwrap() {
        let tensor = |key: &str| Tensor::<1>::from_data(flat(&case[key]), device);
        let number = |key: &str| case[key].as_f64().unwrap();
        let ours = larc(&tensor("w"), tensor("g"), number("eta"), number("rate"));
        let ours = ours.into_data().try_to_vec::<f32>().unwrap();
        let off = off(&ours, &numbers(&case["scaled"]));
        assert!(off < most, "{off:e}: {case}");
        clipped += usize::from(case["g"] != case["scaled"]);
    }
    assert!((1..golden()["larc"].as_array().unwrap().len()).contains(&clipped), "both sides are met");
}

#[test]
fn polynomial_decay_follows_numpy() {
    for case in golden()["schedules"].as_array().unwrap() {
        let number = |key: &str| case[key].as_f64().unwrap();
        let schedule = Schedule { power: number("power"), min: number("min"), ..Schedule::default() };
        let total = case["total"].as_u64().unwrap();
        for (update, expected) in numbers(&case["updates"]).into_iter().zip(numbers(&case["rates"])) {
            let ours = schedule.at(number("start"), update as u64, total);
            assert!((ours - expected).abs() <= 1e-14 * expected, "{ours} {expected}: update {update}");
        }
    }
}

#[test]
fn recipes_follow_numpy_on_the_cpu() {
    larc_follows_numpy(&Device::flex(), 3e-7);
    rules_follow_numpy(&Device::flex(), 1e-6);
}

#[test]
fn recipes_follow_numpy_on_wgpu() {
    match DeviceChoice::Wgpu(None).open() {
        Err(_) => not_run("recipe: recipes_follow_numpy_on_wgpu", "no Vulkan driver"),
        Ok(device) => {
            larc_follows_numpy(&device, 1e-6);
            rules_follow_numpy(&device, 1e-6);
        }
    }
}
