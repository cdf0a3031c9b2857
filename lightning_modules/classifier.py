"""The one training loop. (Signatures first; the body follows.)

Constructor: `WasteClassifier(net, objective, optimizer, classes, *, state_record=None, channels_last=True, compile=False)`
- objective: `instantiate(cfg.objective, class_counts=dm.class_counts)`
- optimizer: `instantiate(cfg.optimizer)` (a partial of lightning_modules.optim.configure)
- state_record: `checkpoint.make_record(net, classes, class_counts=..., preprocessing=dm.preprocessing, config=plain)`
- `.metrics["val"|"test"].confusion`: (C, C) int64 CPU tensor, rows = truth, of the last finished epoch
- `.lr`: the LR finder's attribute
- validation_step/test_step return {"logits": (B, C), "targets": (B,), "indices": (B,)} for callbacks' on_*_batch_end
- predict_step returns {"probabilities": (B, C) float32, "indices": (B,)}
- logged: train/loss (epoch mean) + terms, train/loss_step (each log_every_n_steps, bar), val|test/: loss, terms, f1_macro,
  f1/<class> (left out when the class has no photo), accuracy_micro, auroc_macro (left out when undefined), ece
"""
