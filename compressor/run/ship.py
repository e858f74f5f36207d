"""Ship the student: write its folder and its files in every format, and prove that each file equals the network."""

from __future__ import annotations

from dataclasses import replace

import torch

from compressor.artifacts.promises import saved
from compressor.artifacts.prove import in_pytorch, truth_of_network
from compressor.artifacts.student import Student
from compressor.artifacts.write import Source, Written, calibration_images, checked, written_all, written_onnx
from compressor.errors import CompressError
from compressor.exporting import Artifact
from compressor.run.state import Run

VERIFIED_IMAGES = 16


def ship(run: Run) -> Run:
    """Save the student folder, write its files and prove them."""
    run, files = _save(run)
    return _verify(run, files)


def _save(run: Run) -> tuple[Run, dict[str, Artifact]]:
    """Write the folders of the networks that ship, their ONNX files, and the teacher's."""
    recipe, folder, origin, image = run.recipe, run.folder, run.origin, torch.zeros(1, *run.data.shape)
    about = dict(origin.about)
    if run.repair and origin.is_cut:
        about["repaired"] = f"{run.repair['images']} images"
    with run.steps.step("Save and export") as step:
        network = run.student.trained.network
        whole = Student(
            network, origin.source, run.student.stage.plan.after(origin.done), tuple(image.shape), about
        )
        checks = [saved(whole, folder.student)]
        networks = {"teacher": run.teacher.network.cpu(), "student": network}
        for training in run.trainings:
            if training.ships:
                name, networks[training.stage.name] = training.stage.name, training.trained.network.cpu()
                plan = training.stage.plan.after(run.teacher.done)
                other = replace(whole, network=networks[name], plan=plan)
                checks.append(saved(other, folder.beside(name), name))
        files = {
            name: written_onnx(each, image, folder.artifact(name, ".onnx"), recipe.export, about)
            for name, each in networks.items()
        }
        step.outcome = f"opset {files['student'].opset}, {files['student'].bytes:,} bytes"
    return replace(run, networks=networks).proven(*checks), files


def _verify(run: Run, files: dict[str, Artifact]) -> Run:
    recipe, image, real = run.recipe, torch.zeros(1, *run.data.shape), run.images(VERIFIED_IMAGES)
    with run.steps.step("Verify the artifact") as step:
        truth = truth_of_network(run.networks["student"], real, run.data)
        written: list[Written] = []
        for name, file in files.items():
            own = truth if name == "student" else truth_of_network(run.networks[name], real)
            written.append(checked(file, own, recipe.export, ships=name != "teacher"))
        calibration = calibration_images(run.data, recipe.seed) if run.formats != ("onnx",) else ()
        source = Source(
            files["student"].path,
            run.folder.artifact("student", ""),
            run.networks["student"],
            image,
            calibration,
        )
        written += written_all(run.formats, source, truth, recipe.export)
        for note in (*(note for file in written for note in file.notes), *run.formats_left_out):
            run.steps.warn(note)
        proofs = (in_pytorch("student", truth), *(proof for file in written for proof in file.proofs))
        first = next(proof for proof in proofs if proof.file == files["student"].path.name)
        if first.accuracy is None:  # the file does not run at all: there is nothing to profile
            raise CompressError(first.detail)
        step.outcome = f"top-1 {first.accuracy:.2%} from the file"
    checks = [check for file in written for check in file.checks]
    return replace(run, written=tuple(written), proofs=proofs).proven(*checks, onnx=first.accuracy)
