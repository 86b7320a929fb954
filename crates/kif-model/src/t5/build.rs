//! From named tensors to a model: which weights are frozen, which are trained, where adapters sit.

use kif_data::chance::{Purpose, below, stream, uniform};

use super::prompts::SoftPrompts;
use super::routing::InstanceRouter;
use super::{Adapter, AttentionLayer, Block, FeedForward, Linear, Param, Stack, T5};
use crate::engine::{Engine, Role, WeightSpec};
use crate::files::{
    FeedForward as FeedForwardKind, T5Config, Weights, t5_optional_tensors, t5_tensors,
};
use crate::{
    LoraConfig, ModelError, ModelOptions, ParamGroup, ParamLayout, PromptConfig, PromptSelection,
    Router, Routing, Trainable,
};

impl<E: Engine> T5<E> {
    /// Prepares all weights for `engine`. Tensors are taken out of `weights` one by one, so no second copy is held.
    ///
    /// A fresh adapter is the base itself: A is Kaiming-uniform (a = sqrt 5, as PEFT), B is zero.
    pub(crate) fn build(
        engine: E,
        config: &T5Config,
        weights: Weights,
        options: &ModelOptions,
    ) -> Result<Self, ModelError> {
        let (trainable, seed) = (&options.trainable, options.seed);
        weights.expect(&t5_tensors(config), &t5_optional_tensors(config))?;
        let mut builder = Builder {
            engine,
            weights,
            trainable,
            seed,
            layout: ParamLayout::default(),
            params: Vec::new(),
            n_adapters: 0,
        };
        trainable.validate()?;
        let prompts = builder.prompts(config)?;
        let has_own_head = builder.has_own_head(config)?;
        let encoder_embedding = builder.own_embedding(config, "encoder")?;
        let decoder_embedding = builder.own_embedding(config, "decoder")?;
        let shared_role = if has_own_head {
            Role::Lookup
        } else {
            Role::LookupAndProduct
        };
        let shared = builder.param("shared", [config.vocab_size, config.d_model], shared_role)?;
        let encoder = builder.stack(config, "encoder", encoder_embedding)?;
        let decoder = builder.stack(config, "decoder", decoder_embedding)?;
        let head = if has_own_head {
            Some(builder.param(
                "lm_head",
                [config.vocab_size, config.d_model],
                Role::Product,
            )?)
        } else {
            None
        };
        builder.check_targets(config)?;
        let routing = trainable.routing();
        let instance_router = match routing {
            Some(Routing {
                n_slots,
                router: Router::Instance { hidden },
                ..
            }) => Some(builder.instance_router(config.d_model, hidden, n_slots)?),
            _ => None,
        };
        let Builder {
            engine,
            layout,
            params,
            ..
        } = builder;
        Ok(Self {
            engine,
            config: config.clone(),
            layout: layout.with_slots(routing.map_or(1, |routing| routing.n_slots))?,
            params,
            recompute: options.recompute,
            shared,
            head,
            encoder,
            decoder,
            routing,
            lora: trainable.lora().cloned(),
            instance_router,
            look: std::cell::RefCell::default(),
            prompts,
        })
    }
}

struct Builder<'a, E: Engine> {
    engine: E,
    weights: Weights,
    trainable: &'a Trainable,
    seed: u64,
    layout: ParamLayout,
    params: Vec<f32>,
    n_adapters: u64,
}

impl<E: Engine> Builder<'_, E> {
    /// Whether the output head is a matrix of its own: untied, or stored and different from the embedding.
    fn has_own_head(&self, config: &T5Config) -> Result<bool, ModelError> {
        Ok(!config.tie_word_embeddings || self.differs_from_shared("lm_head.weight")?)
    }

    /// Published files repeat `shared.weight` under other names; a copy must not become a second table.
    fn differs_from_shared(&self, name: &str) -> Result<bool, ModelError> {
        Ok(self.weights.contains(name)
            && self.weights.get(name)? != self.weights.get("shared.weight")?)
    }

    /// The weight `<module>.weight`; trained if all weights are.
    fn param(
        &mut self,
        module: &str,
        shape: [usize; 2],
        role: Role,
    ) -> Result<Param<E>, ModelError> {
        let name = format!("{module}.weight");
        let values = self.weights.take(&name)?;
        let stored_shape = if shape[0] == 1 {
            vec![shape[1]]
        } else {
            shape.to_vec()
        };
        match self.trainable {
            Trainable::All => self.trained(name, stored_shape, shape, role, values),
            Trainable::Adapter(_) | Trainable::Routed(..) | Trainable::Prompts(_) => {
                let spec = WeightSpec {
                    n_rows: shape[0],
                    n_cols: shape[1],
                    role,
                    trainable: false,
                };
                Ok(Param {
                    weight: self.engine.weight(values, spec)?,
                    slot: None,
                })
            }
        }
    }

    /// The soft prompts, where these are trained: rows of random ids in the encoder's embedding, and as keys of a pool
    /// their means.
    fn prompts(&mut self, config: &T5Config) -> Result<Option<SoftPrompts<E>>, ModelError> {
        let &Trainable::Prompts(prompts) = self.trainable else {
            return Ok(None);
        };
        let PromptConfig {
            n_prompts,
            length,
            selection,
        } = prompts;
        let width = config.d_model;
        let own = "encoder.embed_tokens.weight";
        let table = if self.differs_from_shared(own)? {
            own
        } else {
            "shared.weight"
        };
        let table = self.weights.get(table)?;
        let mut rows = Vec::with_capacity(n_prompts * length * width);
        for prompt in 0..n_prompts {
            let mut rng = stream(self.seed, Purpose::Init, prompt as u64, 2);
            for _ in 0..length {
                let id = below(&mut rng, config.vocab_size);
                rows.extend_from_slice(&table[id * width..(id + 1) * width]);
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
            Role::Lookup,
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
            weight: self.engine.weight(values, spec)?,
            slot,
        })
    }

    /// The embedding of one stack, where it is stored and not the shared one.
    fn own_embedding(
        &mut self,
        config: &T5Config,
        stack: &str,
    ) -> Result<Option<Param<E>>, ModelError> {
        let module = format!("{stack}.embed_tokens");
        if !self.differs_from_shared(&format!("{module}.weight"))? {
            return Ok(None);
        }
        Ok(Some(self.param(
            &module,
            [config.vocab_size, config.d_model],
            Role::Lookup,
        )?))
    }

    fn norm(&mut self, module: &str, width: usize) -> Result<Param<E>, ModelError> {
        self.param(module, [1, width], Role::Lookup)
    }

    fn linear(
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
        Ok(Linear { weight, adapter })
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

    fn attention(
        &mut self,
        config: &T5Config,
        layer: &str,
        kind: &str,
    ) -> Result<AttentionLayer<E>, ModelError> {
        let (inner, width) = (config.inner_dim(), config.d_model);
        let module = format!("{layer}.{kind}");
        Ok(AttentionLayer {
            norm: self.norm(&format!("{layer}.layer_norm"), width)?,
            q: self.linear(&module, "q", inner, width)?,
            k: self.linear(&module, "k", inner, width)?,
            v: self.linear(&module, "v", inner, width)?,
            o: self.linear(&module, "o", width, inner)?,
        })
    }

    fn feed_forward(
        &mut self,
        config: &T5Config,
        layer: &str,
    ) -> Result<FeedForward<E>, ModelError> {
        let (inner, width) = (config.d_ff, config.d_model);
        let module = format!("{layer}.DenseReluDense");
        let norm = self.norm(&format!("{layer}.layer_norm"), width)?;
        let (wi, up) = match config.feed_forward {
            FeedForwardKind::Relu => (self.linear(&module, "wi", inner, width)?, None),
            FeedForwardKind::GatedGelu => (
                self.linear(&module, "wi_0", inner, width)?,
                Some(self.linear(&module, "wi_1", inner, width)?),
            ),
        };
        Ok(FeedForward {
            norm,
            wi,
            up,
            wo: self.linear(&module, "wo", width, inner)?,
        })
    }

    fn stack(
        &mut self,
        config: &T5Config,
        stack: &str,
        embedding: Option<Param<E>>,
    ) -> Result<Stack<E>, ModelError> {
        let is_decoder = stack == "decoder";
        let n_layers = if is_decoder {
            config.num_decoder_layers
        } else {
            config.num_layers
        };
        let position_bias = self.param(
            &format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"),
            [config.relative_attention_num_buckets, config.num_heads],
            Role::Lookup,
        )?;
        let mut blocks = Vec::with_capacity(n_layers);
        for i in 0..n_layers {
            let layer = |n: usize| format!("{stack}.block.{i}.layer.{n}");
            let attention = self.attention(config, &layer(0), "SelfAttention")?;
            let cross = if is_decoder {
                Some(self.attention(config, &layer(1), "EncDecAttention")?)
            } else {
                None
            };
            let feed_forward = self.feed_forward(config, &layer(if is_decoder { 2 } else { 1 }))?;
            blocks.push(Block {
                attention,
                cross,
                feed_forward,
            });
        }
        let final_norm = self.norm(&format!("{stack}.final_layer_norm"), config.d_model)?;
        Ok(Stack {
            embedding,
            position_bias,
            blocks,
            final_norm,
        })
    }

    /// A fresh router of rows: the layers of the query as PyTorch draws linear layers, the gain 1, keys uniform in -1..1.
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
                Role::Lookup,
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
    fn check_targets(&self, config: &T5Config) -> Result<(), ModelError> {
        let Some(lora) = self.trainable.lora() else {
            return Ok(());
        };
        let mut known = vec!["q", "k", "v", "o", "wo"];
        match config.feed_forward {
            FeedForwardKind::Relu => known.push("wi"),
            FeedForwardKind::GatedGelu => known.extend(["wi_0", "wi_1"]),
        }
        match lora
            .targets
            .iter()
            .find(|target| !known.contains(&target.as_str()))
        {
            None => Ok(()),
            Some(target) => Err(ModelError::UnknownTarget {
                target: target.clone(),
                known: known.into_iter().map(str::to_owned).collect(),
            }),
        }
    }
}

/// Kaiming-uniform with a = sqrt 5 has the bound sqrt(6 / ((1 + 5) * n_in)).
fn kaiming_bound(n_in: usize) -> f32 {
    (n_in as f32).sqrt().recip()
}
