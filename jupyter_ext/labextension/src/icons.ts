import { LabIcon } from '@jupyterlab/ui-components';
import changes from '../style/icons/changes.svg';
import logs from '../style/icons/logs.svg';
import shield from '../style/icons/shield.svg';
import hardware from '../style/icons/shield-hardware.svg';
import none from '../style/icons/shield-none.svg';
import software from '../style/icons/shield-software.svg';

export const shieldIcon = new LabIcon({ name: 'hyper-kernel:shield', svgstr: shield });
export const changesIcon = new LabIcon({ name: 'hyper-kernel:changes', svgstr: changes });
export const logsIcon = new LabIcon({ name: 'hyper-kernel:logs', svgstr: logs });

const noneIcon = new LabIcon({ name: 'hyper-kernel:shield-none', svgstr: none });
const tierIcons: Record<string, LabIcon> = {
  hardware: new LabIcon({ name: 'hyper-kernel:shield-hardware', svgstr: hardware }),
  software: new LabIcon({ name: 'hyper-kernel:shield-software', svgstr: software })
};

/** The shield of a tier; a crossed one where nothing isolates. */
export function tierIcon(tier: string | null): LabIcon {
  return tier === null ? noneIcon : (tierIcons[tier] ?? shieldIcon);
}
