#!/bin/sh
# The table of SLIC-Reg's publication (Heinrich et al., MIDL 2021) on the real abdominal CT, unattended:
#
#     sh Docs/examples/slicreg_abdomen.sh [folder of the data] [folder for the results]
#
# The data: the 30 public scans of "Multi-Atlas Labeling Beyond the Cranial Vault", abdomen
# (https://www.synapse.org/#!Synapse:syn3193805, registration needed), as
#     bcv/img/img0001.nii.gz … img0010.nii.gz, img0021.nii.gz … img0040.nii.gz
#     bcv/label/label0001.nii.gz … in the same way
# An interrupted run goes on where it was when it is called again. A graphics card is used if there is one.
set -eu
data=${1:-bcv}
out=${2:-slicreg-abdomen}
regcore=${REGCORE:-regcore}
template=0038
train="0002 0003 0005 0006 0008 0009 0021 0022 0024 0025 0027 0028 0030 0031 0033 0034 0036 0037 0039 0040"
tests="0001 0004 0007 0010 0023 0026 0029 0032 0035"

files() { # FOLDER PREFIX NUMBERS: paths of these files; ends the script if one is missing
    for number in $3; do
        path="$data/$1/$2$number.nii.gz"
        if [ ! -f "$path" ]; then
            echo "$path is missing. The abdominal CT of \"Beyond the Cranial Vault\" was expected in $data/img" \
                "and $data/label: see the head of this script for where to get it." >&2
            return 2
        fi
        printf '%s ' "$path"
    done
}

template_image=$(files img img "$template")
template_labels=$(files label label "$template")
train_images=$(files img img "$train")
test_images=$(files img img "$tests")
test_labels=$(files label label "$tests")

# shellcheck disable=SC2086 # lists of paths are meant to fall apart into words
$regcore slicreg prepare --template $template_image --scans $train_images --out "$out/prepared" \
    --spacing 2 --shape 192 160 256 --layers 16 --supervoxels 127
for network in deeplab unet regression; do
    if [ -e "$out/$network/save/last.pt" ]; then
        $regcore train --resume "$out/$network"
    else
        $regcore slicreg train "$out/prepared" --network $network --steps 3000 --seed 0 --out "$out/$network"
    fi
done
# shellcheck disable=SC2086
$regcore slicreg evaluate --model "$out/deeplab/save/last.pt" --regression "$out/regression/save/last.pt" \
    --unet "$out/unet/save/last.pt" --template $template_image --template-seg $template_labels \
    --scans $test_images --segs $test_labels --out "$out/table.json" \
    --structures 1=Spleen "2=Right kidney" "3=Left kidney" 4=Gallbladder 5=Oesophagus 6=Liver 7=Stomach 8=Aorta \
    "9=Inferior vena cava" "10=Portal and splenic vein" 11=Pancreas "12=Right adrenal gland" "13=Left adrenal gland" \
    --average 1 2 3 6 | tee "$out/table.md"
