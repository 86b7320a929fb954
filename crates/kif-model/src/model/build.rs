//! From named tensors to weights: which are frozen, which are trained, where adapters, prompts and
//! routers come in.

use kif_data::chance::{Purpose, below, stream, uniform};

use super::core::Core;
use super::layer::{Adapter, Linear, Param, shifted};
use super::parts::{InstanceRouter, SideBySide, SoftPrompts};
use crate::engine::{Engine, Role, WeightSpec};
use crate::files::{Values, Weights};
use crate::{
    LoraConfig, ModelError, ModelOptions, ParamGroup, ParamLayout, PromptConfig, PromptSelection,
    Router, Routing, Trainable,
};

/// What an architecture says of itself.
pub(crate) struct Sizes {
    /// Number of token ids, V.
    pub(crate) vocab_size: usize,
    /// Width D of the residual stream.
    pub(crate) width: usize,
    /// Added to the mean square in every norm.
    pub(crate) epsilon: f32,
    /// Factor on token embeddings.
    pub(crate) embedding_scale: f32,
    /// Factor on the last hidden states before the head.
    pub(crate) logit_scale: f32,
    /// Ids that end a text.
    pub(crate) end_ids: Vec<u32>,
}

/// Takes tensors out of `weights` one by one, so no second copy is held, and gives those that are
/// trained their places in the flat parameter vector, in the order in which they are asked for.
///
/// A fresh adapter is the base itself: A is Kaiming-uniform (a = sqrt 5, as PEFT), B is zero.
pub(crate) struct Builder<'a, E: Engine> {
    engine: E,
    weights: Weights,
    options: &'a ModelOptions,
    trainable: &'a Trainable,
    seed: u64,
    layout: ParamLayout,
    params: Vec<f32>,
    n_adapters: u64,
    /// See [`with_norm_offset`](Self::with_norm_offset).
    norm_offset: f32,
}

impl<'a, E: Engine> Builder<'a, E> {
    pub(crate) fn new(
        engine: E,
        weights: Weights,
        options: &'a ModelOptions,
    ) -> Result<Self, ModelError> {
        options.trainable.validate()?;
        Ok(Self {
            engine,
            weights,
            options,
            trainable: &options.trainable,
            seed: options.seed,
            layout: ParamLayout::default(),
            params: Vec::new(),
            n_adapters: 0,
            norm_offset: 0.0,
        })
    }

    /// What is added to the stored gains of norms.
    pub(crate) fn with_norm_offset(self, norm_offset: f32) -> Self {
        Self {
            norm_offset,
            ..self
        }
    }

    /// The core, once all weights of the network are there.
    pub(crate) fn core(
        mut self,
        sizes: Sizes,
        embedding: Param<E>,
        head: Option<Param<E>>,
        prompts: Option<SoftPrompts<E>>,
    ) -> Result<Core<E>, ModelError> {
        let Sizes {
            vocab_size,
            width,
            epsilon,
            embedding_scale,
            logit_scale,
            end_ids,
        } = sizes;
        let routing = self.trainable.routing();
        let instance_router = match routing {
            Some(Routing {
                n_slots,
                router: Router::Instance { hidden },
                ..
            }) => Some(self.instance_router(width, hidden, n_slots)?),
            _ => None,
        };
        let Self {
            engine,
            layout,
            params,
            ..
        } = self;
        Ok(Core {
            engine,
            vocab_size,
            width,
            epsilon,
            embedding_scale,
            logit_scale,
            end_ids,
            layout: layout.with_slots(routing.map_or(1, |routing| routing.n_slots))?,
            params,
            recompute: self.options.recompute,
            dropout_of: self.options.dropout_of,
            embedding,
            head,
            side_by_side: match self.trainable {
                Trainable::Routed(lora, routing) => Some(SideBySide {
                    routing: *routing,
                    lora: lora.clone(),
                }),
                _ => None,
            },
            instance_router,
            gathered: std::cell::RefCell::default(),
            prompts,
        })
    }

    /// Whether tensor `name` is stored and other than `table`. Published files repeat the embedding
    /// under other names; a copy must not become a second table.
    pub(crate) fn differs(&self, name: &str, table: &str) -> Result<bool, ModelError> {
        Ok(self.weights.contains(name)
            && self.weights.values(name)? != self.weights.values(table)?)
    }

    /// The weight `<module>.weight`; trained if all weights are.
    pub(crate) fn param(
        &mut self,
        module: &str,
        shape: [usize; 2],
        role: Role,
    ) -> Result<Param<E>, ModelError> {
        self.tensor(format!("{module}.weight"), shape, role, 0.0)
    }

    /// The tensor of that name plus `offset`; trained if all weights are.
    fn tensor(
        &mut self,
        name: String,
        shape: [usize; 2],
        role: Role,
        offset: f32,
    ) -> Result<Param<E>, ModelError> {
        let stored_shape = if shape[0] == 1 {
            vec![shape[1]]
        } else {
            shape.to_vec()
        };
        match self.trainable {
            Trainable::All => {
                let (start, values) = (self.params.len(), self.weights.take(&name)?);
                let mut param = self.trained(name, stored_shape, shape, role, values)?;
                if offset != 0.0 {
                    param.offset = offset;
                    param.set(&self.engine, &self.params[start..])?;
                }
                Ok(param)
            }
            Trainable::Adapter(_) | Trainable::Routed(..) | Trainable::Prompts(_) => {
                let spec = WeightSpec {
                    n_rows: shape[0],
                    n_cols: shape[1],
                    role,
                    trainable: false,
                };
                let mut values = self.weights.take_values(&name)?;
                if offset != 0.0 {
                    values = Values::Memory(shifted(&values.into_vec(), offset));
                }
                Ok(Param {
                    weight: self.engine.weight(values, spec)?,
                    slot: None,
                    offset,
                })
            }
        }
    }

    /// The soft prompts, where these are trained: rows of random ids of `table`, `[V, D]`, which
    /// embeds the texts, and as keys of a pool their means.
    pub(crate) fn prompts(
        &mut self,
        table: &str,
        [vocab_size, width]: [usize; 2],
    ) -> Result<Option<SoftPrompts<E>>, ModelError> {
        let &Trainable::Prompts(prompts) = self.trainable else {
            return Ok(None);
        };
        let PromptConfig {
            n_prompts,
            length,
            selection,
        } = prompts;
        let table = self.weights.values(table)?;
        let mut row = Vec::new();
        let mut rows = Vec::with_capacity(n_prompts * length * width);
        for prompt in 0..n_prompts {
            let mut rng = stream(self.seed, Purpose::Init, prompt as u64, 2);
            for _ in 0..length {
                let id = below(&mut rng, vocab_size);
                rows.extend_from_slice(table.range(id * width..(id + 1) * width, &mut row));
            }
        }
        let mean_of = |prompt: &[f32]| {
            let column = |i| prompt.iter().skip(i).step_by(width).sum::<f32>() / length as f32;
            (0..width).map(column).collect::<Vec<_>>()
        };
        let keys: Vec<f32> = rows
            .chunks_exact(length * width)
            .flat_map(mean_of)
            .collect();
        let rows = self.trained_in(
            ParamGroup::Prompts,
            "prompts".to_owned(),
            vec![n_prompts, length, width],
            [n_prompts * length, width],
            Role::Table,
            rows,
        )?;
        let keys = match selection {
            PromptSelection::Fixed => None,
            PromptSelection::Pool { .. } => {
                self.params.extend(keys);
                let (name, shape) = ("prompt_keys".to_owned(), vec![n_prompts, width]);
                Some(self.layout.push_to(ParamGroup::PromptKeys, name, shape))
            }
        };
        Ok(Some(SoftPrompts {
            config: prompts,
            rows,
            keys,
            active: Vec::new(),
        }))
    }

    fn trained(
        &mut self,
        name: String,
        stored_shape: Vec<usize>,
        shape: [usize; 2],
        role: Role,
        values: Vec<f32>,
    ) -> Result<Param<E>, ModelError> {
        let group = match self.trainable {
            Trainable::All => ParamGroup::Base,
            Trainable::Adapter(_) | Trainable::Routed(..) | Trainable::Prompts(_) => {
                ParamGroup::Lora
            }
        };
        self.trained_in(group, name, stored_shape, shape, role, values)
    }

    fn trained_in(
        &mut self,
        group: ParamGroup,
        name: String,
        stored_shape: Vec<usize>,
        [n_rows, n_cols]: [usize; 2],
        role: Role,
        values: Vec<f32>,
    ) -> Result<Param<E>, ModelError> {
        self.params.extend_from_slice(&values);
        let slot = Some(self.layout.push_to(group, name, stored_shape));
        let spec = WeightSpec {
            n_rows,
            n_cols,
            role,
            trainable: true,
        };
        Ok(Param {
            weight: self.engine.weight(Values::Memory(values), spec)?,
            slot,
            offset: 0.0,
        })
    }

    pub(crate) fn norm(&mut self, module: &str, width: usize) -> Result<Param<E>, ModelError> {
        let name = format!("{module}.weight");
        self.tensor(name, [1, width], Role::Elements, self.norm_offset)
    }

    pub(crate) fn linear(
        &mut self,
        parent: &str,
        target: &str,
        n_out: usize,
        n_in: usize,
    ) -> Result<Linear<E>, ModelError> {
        let module = format!("{parent}.{target}");
        let weight = self.param(&module, [n_out, n_in], Role::Product)?;
        let adapter = match self.trainable.lora() {
            Some(lora) if lora.targets.iter().any(|t| t == target) => {
                Some(self.adapter(&module, lora, n_out, n_in)?)
            }
            _ => None,
        };
        Ok(Linear {
            weight,
            bias: None,
            adapter,
        })
    }

    /// As [`linear`](Self::linear), with the bias `<parent>.<target>.bias`.
    pub(crate) fn linear_with_bias(
        &mut self,
        parent: &str,
        target: &str,
        n_out: usize,
        n_in: usize,
    ) -> Result<Linear<E>, ModelError> {
        let linear = self.linear(parent, target, n_out, n_in)?;
        let name = format!("{parent}.{target}.bias");
        let bias = Some(self.tensor(name, [1, n_out], Role::Elements, 0.0)?);
        Ok(Linear { bias, ..linear })
    }

    fn adapter(
        &mut self,
        module: &str,
        lora: &LoraConfig,
        n_out: usize,
        n_in: usize,
    ) -> Result<Adapter<E>, ModelError> {
        let number = self.n_adapters;
        self.n_adapters += 1;
        let a = self.drawn(lora.rank * n_in, kaiming_bound(n_in), (number, 0));
        let b = vec![0.0; n_out * lora.rank];
        let (a_shape, b_shape) = ([lora.rank, n_in], [n_out, lora.rank]);
        let name = |side| format!("base_model.model.{module}.lora_{side}.weight");
        Ok(Adapter {
            a: self.trained(name('A'), a_shape.to_vec(), a_shape, Role::Product, a)?,
            b: self.trained(name('B'), b_shape.to_vec(), b_shape, Role::Product, b)?,
            scale: lora.scale(),
            stream: number,
            router: match self.trainable.routing() {
                Some(Routing {
                    n_slots,
                    router: Router::Token { .. },
                    ..
                }) => {
                    let values = self.drawn(n_slots * n_in, kaiming_bound(n_in), (number, 4));
                    let name = format!("router.{module}.weight");
                    Some(self.of_router(ParamGroup::Router, &name, [n_slots, n_in], values)?)
                }
                _ => None,
            },
        })
    }

    /// A fresh router of rows: the layers of the query as PyTorch draws linear layers, the gain 1,
    /// keys uniform in -1..1.
    fn instance_router(
        &mut self,
        width: usize,
        hidden: usize,
        n_slots: usize,
    ) -> Result<InstanceRouter<E>, ModelError> {
        let down = self.drawn(hidden * width, kaiming_bound(width), (0, 3));
        let up = self.drawn(width * hidden, kaiming_bound(hidden), (1, 3));
        let keys = self.drawn(n_slots * width, 1.0, (2, 3));
        let [query, slot_keys] = [ParamGroup::Router, ParamGroup::SlotKeys];
        Ok(InstanceRouter {
            down: self.of_router(query, "router.query.down.weight", [hidden, width], down)?,
            up: self.of_router(query, "router.query.up.weight", [width, hidden], up)?,
            gain: self.trained_in(
                query,
                "router.query.norm.weight".to_owned(),
                vec![width],
                [1, width],
                Role::Elements,
                vec![1.0; width],
            )?,
            keys: self.of_router(slot_keys, "slot_keys", [n_slots, width], keys)?,
        })
    }

    /// A trained matrix of a router.
    fn of_router(
        &mut self,
        group: ParamGroup,
        name: &str,
        shape: [usize; 2],
        values: Vec<f32>,
    ) -> Result<Param<E>, ModelError> {
        let (name, stored_shape) = (name.to_owned(), shape.to_vec());
        self.trained_in(group, name, stored_shape, shape, Role::Product, values)
    }

    /// `n` uniform numbers in `-bound..bound` from a stream of their own.
    fn drawn(&self, n: usize, bound: f32, (number, kind): (u64, u64)) -> Vec<f32> {
        let mut rng = stream(self.seed, Purpose::Init, number, kind);
        (0..n)
            .map(|_| (2.0 * uniform(&mut rng) - 1.0) * bound)
            .collect()
    }

    /// Refuses targets that this model does not have: they would silently train nothing.
    pub(crate) fn check_targets(&self, known: &[&str]) -> Result<(), ModelError> {
        let targets = self.trainable.lora().map(|lora| lora.targets.iter());
        let unknown = targets.into_iter().flatten();
        match unknown
            .into_iter()
            .find(|target| !known.contains(&target.as_str()))
        {
            None => Ok(()),
            Some(target) => Err(ModelError::UnknownTarget {
                target: target.clone(),
                known: known.iter().map(|&name| name.to_owned()).collect(),
            }),
        }
    }
}

/// Kaiming-uniform with a = sqrt 5 has the bound sqrt(6 / ((1 + 5) * n_in)).
fn kaiming_bound(n_in: usize) -> f32 {
    (n_in as f32).sqrt().recip()
}
