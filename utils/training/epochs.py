"""The epochs of a training, one after the other."""


class Epochs:
    """Trains and validates, epoch by epoch; each is on disk before the next begins.

    Args:
        trainer: `utils.training.trainer.Trainer`.
        state: `utils.training_state.TrainingState`, which tells where to go on.
        recorder: `utils.training.history.Recorder`.
        schedule: `utils.training.trainer.Schedule`.
        validate: callable(detector) -> (loss, IoU) on the sequences that select the best epoch.
    """

    def __init__(self, trainer, state, recorder, schedule, validate):
        self.trainer, self.state, self.recorder = trainer, state, recorder
        self.schedule, self.validate, self.log = schedule, validate, recorder.log

    def run(self, total, stop):
        """Trains until there are `total` epochs, or, saving the step, until a signal has come.

        Args:
            stop: `utils.process.StopRequest`, entered.

        Raises:
            SystemExit: it came.
        """
        for epoch in range(self.state.epoch + 1, total):
            row = self._train(epoch, total, stop)
            self.recorder.save_last(within_epoch=True)  # a validation may fail
            if row is None:
                self.recorder.stop(stop.signal)
            self.state.epoch, self.state.position = epoch, None
            self.recorder.save_numbered(last=epoch + 1 == total)
            row |= self._validate(epoch)
            row["best_iou"] = self.recorder.save_best(row["val_iou"])
            self.recorder.end_epoch(row | self.trainer.speed(total - epoch - 1))
            if stop.signal is not None:
                self.recorder.stop(stop.signal)

    def _train(self, epoch, total, stop):
        """Trains an epoch, or the rest of one: its row of the history, begun; None: interrupted."""
        self.log(f"**** Epoch {epoch + 1} ({epoch + 1}/{total}) ****")
        rate = self.schedule.rate(epoch)
        self.trainer.set_learning_rate(rate)
        self.log(f"Learning rate:{rate:f}")
        loss, iou, position = self.trainer.train_epoch(epoch, self.state.position, stop)
        self.state.position = position
        if loss is None:
            return None
        self.log(f"Training mean loss: {loss:f}")
        self.log(f"Training accuracy (IoU) of prediction: {iou:f}")
        self.trainer.share_statistics()
        return {"epoch": epoch + 1, "learning_rate": rate, "train_loss": loss, "train_iou": iou}

    def _validate(self, epoch):
        """More of the row."""
        self.log(f"---- EPOCH {epoch + 1:03d} EVALUATION ----")
        loss, iou = self.validate(self.trainer.trained())
        self.log(f"Eval mean loss: {loss:f}")
        self.log(f"Eval avg class IoU of prediction: {iou:f}")
        return {"val_loss": loss, "val_iou": iou}
